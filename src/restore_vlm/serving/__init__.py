"""Using what was learned: the classifier and its Python API."""

from restore_vlm.classifier import Classifier, Prediction, fit

__all__ = ["Classifier", "Prediction", "fit"]
