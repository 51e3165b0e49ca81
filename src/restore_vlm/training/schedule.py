"""The learning rate of every epoch or step."""

from __future__ import annotations

import math

from restore_vlm.method import TrainingConfig


def learning_rate(config: TrainingConfig, epoch: float, epochs: float | None = None) -> float:
    """Constant warm-up epochs, then a cosine down to ``final_lr``.

    The cosine is as long as the run and starts when the warm-up ends, as published: it is cut off
    before its end. Stepped once per epoch it takes whole epochs; once per step, fractions of them.

    Args:
        config: Gives lr, final_lr, epochs, warmup_epochs, warmup_lr.
        epoch: Counted from 0.
        epochs: Length of the run where ``config.iterations`` sets it.
    """
    if epoch < config.warmup_epochs:
        return config.warmup_lr
    done = (epoch - config.warmup_epochs) / (epochs or config.epochs)
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * done)) / 2
