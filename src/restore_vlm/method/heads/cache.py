"""Tip-Adapter: a cache of training features, as it is or learned (arXiv 2207.09519)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.heads.head import Choice, Head, HeadConfig, Views
from restore_vlm.method.part import Areas, Ratio, later

BETAS, ALPHAS, LEAST = 200, 20, 0.1
"""Values of beta and of alpha in the grid that is searched, and the smallest of both."""
Bound = Annotated[float, Field(gt=LEAST, allow_inf_nan=False)]


class CacheConfig(HeadConfig):
    """Tip-Adapter's cache of training features (arXiv 2207.09519).

    Attributes:
        alpha: Weight of the cache's logits.
        beta: Their sharpness.
        views: Random crops averaged per training image.
        crop: Their areas.
        learned: Whether the keys are learned (Tip-Adapter-F).
        search: Largest beta and alpha of the grid that is searched on validation photos, where there
            are any; None keeps alpha and beta as they are. The released code searches up to 7 and 3.
    """

    alpha: Ratio = 1.0
    beta: Ratio = 5.5
    views: PositiveInt = 10
    crop: Areas = later((0.5, 1.0))
    learned: bool = False
    search: tuple[Bound, Bound] | None = (7.0, 3.0)

    @property
    def trainable(self) -> bool:
        return self.learned

    @property
    def searches(self) -> bool:
        return self.search is not None

    @classmethod
    def settle(cls, chosen: dict[str, Any]) -> None:
        if {"alpha", "beta"} & chosen.keys():
            chosen.setdefault("search", None)

    def describe(self) -> str:
        return "learned cache" if self.learned else ""

    def build(self, backbone: Backbone, classes: int) -> Cache:
        return Cache(self, backbone.dim, classes)


class Cache(Head):
    """logits + alpha exp(-beta (1 - f F^T)) L (Tip-Adapter, arXiv 2207.09519).

    F holds a unit key per training image, L its label, one-hot; classes never seen get nothing.
    Tip-Adapter-F learns F. The number of keys is that of the images it was fitted to, or of those in
    the state it loads: zero until then.

    Args:
        config: alpha, beta, whether keys are learned, what they are made of and how far to search.
        dim: d.
        classes: Number of training classes.

    Example:
        >>> head = Cache(CacheConfig(alpha=2, beta=1), dim=2, classes=3)
        >>> head.fit(torch.eye(2), labels=torch.tensor([0, 2]))
        >>> image = torch.tensor([[1.0, 0.0]])  # the key of class 0; at a right angle to that of class 2
        >>> head(torch.zeros(1, 3), image, rows=torch.tensor([0, 2, -1]))
        tensor([[2.0000, 0.7358, 0.0000]])
    """

    keys: Tensor
    labels: Tensor

    def __init__(self, config: CacheConfig, dim: int, classes: int) -> None:
        super().__init__()
        keys = torch.zeros(0, dim)
        if config.learned:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        self.alpha, self.beta, self.classes = config.alpha, config.beta, classes
        self.views = Views(config.views, config.crop)
        self.search, self.tunes = config.search, config.search is not None

    def fit(self, features: Tensor, labels: Tensor, validation: Any = None) -> None:
        """Keys from (m, d) features of the training images and their labels (m,)."""
        self.keys.data = F.normalize(features, dim=-1).to(self.keys)
        self.labels = labels.to(self.labels)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Makes room for the keys that are to be loaded."""
        keys, labels = state_dict.get(f"{prefix}keys"), state_dict.get(f"{prefix}labels")
        if keys is not None and labels is not None and keys.shape == (len(labels), self.keys.shape[1]):
            self.keys.data, self.labels = self.keys.new_zeros(keys.shape), self.labels.new_zeros(len(labels))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, logits: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """(b, c) logits of training classes ``rows`` (c,) and (b, d) unit features -> (b, c)."""
        return logits + self.alpha * self._votes(features @ self.keys.T, rows)

    def logits(self, out: Encoded, rows: Tensor) -> Tensor:
        return self(out.logits, out.image_features, rows)

    def _votes(self, affinity: Tensor, rows: Tensor) -> Tensor:
        """(b, m) cosines to the keys -> (b, c), 0 for classes never seen."""
        weight = torch.exp(self.beta * (affinity - 1))
        votes = weight.new_zeros(len(weight), self.classes).index_add(1, self.labels, weight)
        return (rows >= 0) * votes[:, rows.clamp(min=0)]

    def tune(self, out: Encoded, rows: Tensor, labels: Tensor) -> Choice:
        """As in Tip-Adapter's released code: after training, with the keys that were learned."""
        assert self.search is not None
        return self.choose(out.logits, out.image_features, rows, labels, self.search)

    @torch.no_grad()
    def choose(
        self, logits: Tensor, features: Tensor, rows: Tensor, labels: Tensor, most: tuple[float, float]
    ) -> Choice:
        """Takes the beta and alpha of a grid that tell most validation photos right.

        200 betas by 20 alphas, from 0.1 up to but without ``most``, as in Tip-Adapter's released code; what
        it starts with stays unless another is better, and of equals the first is taken, smaller betas first.

        Args:
            logits: (n, c) of the towers alone.
            features: (n, d), unit length.
            rows: (c,) of the training classes.
            labels: (n,), columns of ``logits``.
            most: Ends of the grid: of beta, of alpha.
        """
        affinity = features @ self.keys.T

        def right(alpha: float, votes: Tensor) -> int:
            return int(((logits + alpha * votes).argmax(-1) == labels).sum())

        best = before = right(self.alpha, self._votes(affinity, rows))
        alpha, beta = self.alpha, self.beta
        betas, alphas = _grid(most[0], BETAS), _grid(most[1], ALPHAS)
        for beta_tried in betas:
            self.beta = beta_tried
            votes = self._votes(affinity, rows)
            for alpha_tried in alphas:
                if (found := right(alpha_tried, votes)) > best:
                    best, alpha, beta = found, alpha_tried, beta_tried
        self.alpha, self.beta = alpha, beta
        chosen, count = {"heads.cache.alpha": alpha, "heads.cache.beta": beta}, len(labels)
        return Choice(chosen, count, before / count, best / count)


def _grid(most: float, count: int) -> list[float]:
    """Values from the least up to but without ``most``."""
    return [LEAST + i * (most - LEAST) / count for i in range(count)]
