"""Images on disk to batches: sources, checks, few-shot samples, loading."""

from restore_vlm.data.checks import Report, check, same_content
from restore_vlm.data.fewshot import sample, short_classes
from restore_vlm.data.images import BadImage, inspect, open_image
from restore_vlm.data.loading import Images, loader, test_transform, train_transform
from restore_vlm.data.sources import Dataset, Item, load_dataset, published, select_classes
from restore_vlm.data.validation import Validation, validation_photos

__all__ = [
    "BadImage",
    "Dataset",
    "Images",
    "Item",
    "Report",
    "Validation",
    "check",
    "inspect",
    "load_dataset",
    "loader",
    "open_image",
    "published",
    "same_content",
    "sample",
    "select_classes",
    "short_classes",
    "test_transform",
    "train_transform",
    "validation_photos",
]
