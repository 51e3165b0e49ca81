"""Linear probe: logistic regression on frozen image features (CLIP, arXiv 2103.00020)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore_vlm.backbone import Backbone
from restore_vlm.errors import UserError
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.heads.head import Choice, Head, HeadConfig, Views
from restore_vlm.method.part import Composition

ITERATIONS = 1000
FIRST_STEP, LAST_STEP, REACH = 2.0, 0.125, 6.0
"""Steps and reach of the sweep over c, in decades."""


class LinearProbeConfig(HeadConfig):
    """Logistic regression on the frozen image features (arXiv 2103.00020).

    Attributes:
        c: Inverse of the l2 regularisation, for features of unit length: the published 0.316 for
            features of length 10, about that of CLIP's.
        search: Whether c is searched on validation photos, where there are any.
    """

    saved_as: ClassVar[str] = "probe"

    c: Annotated[float, Field(gt=0)] = 31.6
    search: bool = True

    @property
    def searches(self) -> bool:
        return self.search

    @classmethod
    def settle(cls, chosen: dict[str, Any]) -> None:
        if "c" in chosen:
            chosen.setdefault("search", False)

    def conflicts(self, method: Composition) -> Iterable[str]:
        if method.trainable:
            yield "a linear probe is fitted to frozen features: nothing else can be learned beside it"

    def build(self, backbone: Backbone, classes: int) -> LinearProbe:
        return LinearProbe(self.c, backbone.dim, classes, self.search)


class LinearProbe(Head):
    """Multinomial logistic regression on unit image features, l2-regularised (arXiv 2103.00020).

    W f + b, where W and b minimise C times the summed cross-entropy of the training images plus
    ||W||^2 / 2. Its logits take the place of the towers' for the classes it has seen. Others keep
    those of their text features: the two scales are not made to match, so a list of seen and unseen
    classes together favours one or the other.

    Args:
        c: C, the inverse of the regularisation.
        dim: d.
        classes: Number of training classes.
        search: Whether c is searched where there are validation photos.

    Example:
        >>> head = LinearProbe(10.0, dim=2, classes=3)
        >>> _ = head.fit(torch.eye(2), labels=torch.tensor([0, 2]))
        >>> logits = torch.tensor([[9.0, 9.0, 9.0]])
        >>> out = head(logits, torch.tensor([[0.0, 1.0]]), rows=torch.arange(3))
        >>> out[0, 2] > out[0, 0], out[0, 1]  # class 1 was never seen
        (tensor(True), tensor(9.))
    """

    weight: Tensor
    bias: Tensor
    seen: Tensor

    views = Views()

    def __init__(self, c: float, dim: int, classes: int, search: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, dim))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))
        self.c, self.validates = c, search

    def fit(
        self, features: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None = None
    ) -> Choice | None:
        """scikit-learn's L-BFGS on (m, d) features and labels (m,), with the best c on ``validation``.

        Raises:
            UserError: If there is but one class.
        """
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

        if validation is not None:
            return self.choose(features, labels, *validation)
        if len(labels.unique()) < 2:
            raise UserError("A linear probe tells classes apart: it needs images of at least two.")
        probe = LogisticRegression(C=self.c, max_iter=ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at a large c it stops at the published number of iterations
            probe.fit(F.normalize(features, dim=-1).double().cpu().numpy(), labels.cpu().numpy())
        seen, weight, bias = (torch.from_numpy(a) for a in (probe.classes_, probe.coef_, probe.intercept_))
        if len(seen) == 2:
            weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
        self.weight[seen], self.bias[seen] = weight.to(self.weight), bias.to(self.bias)
        self.seen[seen] = True
        return None

    def choose(
        self, features: Tensor, labels: Tensor, validation: Tensor, validation_labels: Tensor
    ) -> Choice:
        """Takes the c that tells most validation photos right, and fits with it.

        As CLIP's own evaluation (arXiv 2103.00020, appendix A.3): seven values two decades apart, then
        both neighbours of the best at half the distance, down to eight values per decade. They lie around
        the c it starts with, which stays unless another is better.

        Args:
            features: (m, d) to fit to, with ``labels`` (m,).
            labels: Labels of the training images.
            validation: (n, d) to choose on, with ``validation_labels`` (n,).
            validation_labels: Labels of the validation images.
        """
        start, unit = self.c, F.normalize(validation, dim=-1).to(self.weight)
        known: dict[float, int] = {}

        def right(decades: float) -> int:
            if decades not in known:
                self.c = start * 10**decades
                self.fit(features, labels)
                own = F.linear(unit, self.weight, self.bias).masked_fill(~self.seen, -torch.inf)
                known[decades] = int((own.argmax(-1).cpu() == validation_labels.cpu()).sum())
            return known[decades]

        best, step = 0.0, FIRST_STEP
        before = right(best)
        reach = [FIRST_STEP * i for i in range(1, round(REACH / FIRST_STEP) + 1)]
        candidates = [sign * distance for distance in reach for sign in (-1, 1)]
        while step >= LAST_STEP:
            best = max([best, *candidates], key=right)
            step /= 2
            candidates = [best - step, best + step]
        self.c = start * 10**best
        self.fit(features, labels)
        count = len(validation_labels)
        return Choice({"heads.linear_probe.c": self.c}, count, before / count, known[best] / count)

    def forward(self, logits: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """(b, c) logits of training classes ``rows`` (c,) and (b, d) unit features -> (b, c)."""
        own = F.linear(features, self.weight, self.bias)
        row = rows.clamp(min=0)
        return torch.where((rows >= 0) & self.seen[row], own[:, row], logits)

    def logits(self, out: Encoded, rows: Tensor) -> Tensor:
        return self(out.logits, out.image_features, rows)
