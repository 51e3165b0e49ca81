"""Evaluation: accuracy with an interval, per class, confusions, calibration."""

from restore_vlm.evaluation.comparison import Comparison, compare
from restore_vlm.evaluation.evaluate import Evaluation, evaluate, probabilities, summarise
from restore_vlm.evaluation.statistics import harmonic_mean

__all__ = ["Comparison", "Evaluation", "compare", "evaluate", "harmonic_mean", "probabilities", "summarise"]
