"""Cross-entropy of the logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses.loss import Loss, LossConfig, Mean, Start, alone


class CrossEntropyConfig(LossConfig):
    """The mean over a batch of -log softmax(logits) at the label."""

    def build(self, model: Start, mean: Mean = alone) -> CrossEntropy:
        return CrossEntropy(self)


class CrossEntropy(Loss):
    """The mean over a batch of -log softmax(logits)_label, for (b, c) logits and (b,) labels.

    Example:
        >>> out = Encoded(logits=torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> CrossEntropy(CrossEntropyConfig())(out, torch.tensor([0, 1]))
        tensor(0.4100)
    """

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return F.cross_entropy(out.logits, labels)
