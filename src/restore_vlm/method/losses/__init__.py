"""Losses: the terms that a training step can add up, one file for each."""

from __future__ import annotations

from restore_vlm.method.losses.cross_entropy import CrossEntropy, CrossEntropyConfig
from restore_vlm.method.losses.distances import distance, divergence
from restore_vlm.method.losses.feature_shift import FeatureShift, FeatureShiftConfig
from restore_vlm.method.losses.image_anchor import ImageAnchor, ImageAnchorConfig
from restore_vlm.method.losses.logit_anchor import LogitAnchor, LogitAnchorConfig
from restore_vlm.method.losses.loss import Loss, LossConfig, Mean, alone
from restore_vlm.method.losses.text_anchor import TextAnchor, TextAnchorConfig
from restore_vlm.method.part import Group

__all__ = [
    "CrossEntropy",
    "CrossEntropyConfig",
    "FeatureShift",
    "FeatureShiftConfig",
    "ImageAnchor",
    "ImageAnchorConfig",
    "LogitAnchor",
    "LogitAnchorConfig",
    "Loss",
    "LossConfig",
    "LossesConfig",
    "Mean",
    "TextAnchor",
    "TextAnchorConfig",
    "alone",
    "distance",
    "divergence",
]


class LossesConfig(Group):
    """The terms of the training loss, None where a method does not have one."""

    cross_entropy: CrossEntropyConfig | None = CrossEntropyConfig()
    feature_shift: FeatureShiftConfig | None = None
    text_anchor: TextAnchorConfig | None = None
    image_anchor: ImageAnchorConfig | None = None
    logit_anchor: LogitAnchorConfig | None = None
