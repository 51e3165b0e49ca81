"""Feature shift of models: by its definition, on a fixed few images."""

from restore_vlm.measure.probe import Probe
from restore_vlm.measure.shift import Embeddings, Measurement, Shift, frozen_embeddings, measure

__all__ = ["Embeddings", "Measurement", "Probe", "Shift", "frozen_embeddings", "measure"]
