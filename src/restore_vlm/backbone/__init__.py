"""A frozen open_clip model seen as two towers of blocks."""

from restore_vlm.backbone.loading import Backbone, load_backbone, pick_device

__all__ = ["Backbone", "load_backbone", "pick_device"]
