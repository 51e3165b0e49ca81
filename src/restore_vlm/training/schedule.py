"""The learning rate of every epoch."""

from __future__ import annotations

import math

from restore_vlm.method import TrainingConfig


def learning_rate(config: TrainingConfig, epoch: int) -> float:
    """Constant warm-up epochs, then a cosine that is stepped once per epoch.

    The cosine runs over all epochs and starts when the warm-up ends, as published, so the last
    epoch's rate is above zero.

    Args:
        config: Gives lr, epochs, warmup_epochs, warmup_lr.
        epoch: Counted from 0.
    """
    if epoch < config.warmup_epochs:
        return config.warmup_lr
    done = (epoch - config.warmup_epochs) / config.epochs
    return config.lr * (1 + math.cos(math.pi * done)) / 2
