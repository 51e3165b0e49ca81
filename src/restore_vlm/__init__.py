"""Adapt a CLIP from a few labelled photos and keep the classes it never saw."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restore_vlm.classifier import Classifier, Prediction, fit
    from restore_vlm.errors import UserError
    from restore_vlm.evaluation import Evaluation

__all__ = ["Classifier", "Evaluation", "Prediction", "UserError", "fit"]

_HOME = {
    "Classifier": "restore_vlm.classifier",
    "Evaluation": "restore_vlm.evaluation",
    "Prediction": "restore_vlm.classifier",
    "UserError": "restore_vlm.errors",
    "fit": "restore_vlm.classifier",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
