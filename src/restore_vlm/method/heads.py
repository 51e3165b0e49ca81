"""The heads part: what happens to features and logits after the towers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.errors import UserError
from restore_vlm.method.config import CacheConfig, ClipAdapterConfig, HeadsConfig, TaskResidualConfig

ITERATIONS = 1000
FIRST_STEP, LAST_STEP, REACH = 2.0, 0.125, 6.0
"""Of the sweep over c, in decades."""
BETAS, ALPHAS, LEAST = 200, 20, 0.1
"""Of the grid over a cache's beta and alpha: values of each, and the smallest."""


@dataclass(frozen=True)
class Choice:
    """Settings that were chosen on validation photos.

    Attributes:
        settings: By key, such as ``heads.cache.alpha``.
        photos: How many they were chosen on.
        before: Share of the photos told right with the recipe's settings.
        after: The same with those chosen.
    """

    settings: dict[str, float]
    photos: int
    before: float
    after: float

    def sentence(self) -> str:
        """What was chosen, for people."""
        values = " and ".join(f"{key} = {value:.3g}" for key, value in self.settings.items())
        return (
            f"{values} chosen on {self.photos} validation photos, of which {100 * self.after:.1f} % come out "
            f"right ({100 * self.before:.1f} % with the recipe's own)."
        )


class ClipAdapter(nn.Module):
    """(1 - r) f + r A(f) on the projected, unnormalised image feature (CLIP-Adapter, arXiv 2110.04544).

    A is Linear(d, d / reduction), ReLU, Linear(d / reduction, d), ReLU, without biases.

    Args:
        config: r and the reduction.
        dim: d.
    """

    def __init__(self, config: ClipAdapterConfig, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // config.reduction)
        down, up = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.layers = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())
        self.ratio = config.ratio

    def forward(self, features: Tensor) -> Tensor:
        """(b, d) -> (b, d)."""
        return (1 - self.ratio) * features + self.ratio * self.layers(features)


class TaskResidual(nn.Module):
    """t + alpha x on the projected, unnormalised text feature (TaskRes, arXiv 2211.10277).

    x is learned, one vector per training class, zero at the start; other classes keep their t.

    Args:
        config: alpha.
        dim: d.
        classes: Number of training classes.
    """

    def __init__(self, config: TaskResidualConfig, dim: int, classes: int) -> None:
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(classes, dim))
        self.alpha = config.alpha

    def forward(self, features: Tensor, rows: Tensor) -> Tensor:
        """(c, d) or (b, c, d), of training classes ``rows`` (c,) -> the same."""
        known = (rows >= 0)[:, None]
        return features + self.alpha * known * self.residual[rows.clamp(min=0)]


class Cache(nn.Module):
    """logits + alpha exp(-beta (1 - f F^T)) L (Tip-Adapter, arXiv 2207.09519).

    F holds a unit key per training image, L its label, one-hot; classes never seen get nothing.
    Tip-Adapter-F learns F. The number of keys is that of the images it was fitted to, or of those in
    the state it loads: zero until then.

    Args:
        config: alpha, beta, and whether keys are learned.
        dim: d.
        classes: Number of training classes.
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

    def fit(self, features: Tensor, labels: Tensor) -> None:
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

    def _votes(self, affinity: Tensor, rows: Tensor) -> Tensor:
        """(b, m) cosines to the keys -> (b, c), 0 for classes never seen."""
        weight = torch.exp(self.beta * (affinity - 1))
        votes = weight.new_zeros(len(weight), self.classes).index_add(1, self.labels, weight)
        return (rows >= 0) * votes[:, rows.clamp(min=0)]

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
            most: Of beta, of alpha.
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


class LinearProbe(nn.Module):
    """Multinomial logistic regression on unit image features, l2-regularised (arXiv 2103.00020).

    Its logits take the place of the towers' for the classes it has seen. Others keep those of their
    text features: the two scales are not made to match, so a list of seen and unseen classes
    together favours one or the other.

    Args:
        c: Inverse of the regularisation.
        dim: d.
        classes: Number of training classes.
    """

    weight: Tensor
    bias: Tensor
    seen: Tensor

    def __init__(self, c: float, dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, dim))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))
        self.c = c

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """scikit-learn's L-BFGS on (m, d) features and labels (m,).

        Raises:
            UserError: If there is but one class.
        """
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

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

    def choose(
        self, features: Tensor, labels: Tensor, validation: Tensor, validation_labels: Tensor
    ) -> Choice:
        """Takes the c that tells most validation photos right, and fits with it.

        As CLIP's own evaluation (arXiv 2103.00020, appendix A.3): seven values two decades apart, then
        both neighbours of the best at half the distance, down to eight values per decade. They lie around
        the c it starts with, which stays unless another is better.

        Args:
            features: (m, d) to fit to, with ``labels`` (m,).
            labels: Of the training images.
            validation: (n, d) to choose on, with ``validation_labels`` (n,).
            validation_labels: Of the validation images.
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


class Heads(nn.Module):
    """CLIP-Adapter, TaskRes, Tip-Adapter and linear probe, each where the method has it.

    ``rows`` maps the classes asked about to those of training: (c,), -1 for a class never seen.

    Args:
        config: Which heads.
        dim: d of the shared embedding space.
        classes: Number of training classes.
    """

    def __init__(self, config: HeadsConfig, dim: int, classes: int) -> None:
        super().__init__()
        adapter, residual, cache, probe = (
            config.clip_adapter, config.task_residual, config.cache, config.linear_probe,
        )  # fmt: skip
        self.adapter = ClipAdapter(adapter, dim) if adapter else None
        self.residual = TaskResidual(residual, dim, classes) if residual else None
        self.cache = Cache(cache, dim, classes) if cache else None
        self.probe = LinearProbe(probe.c, dim, classes) if probe else None

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        """(c, d) or (b, c, d) unnormalised -> the same."""
        return features if self.residual is None else self.residual(features, rows)

    def image(self, features: Tensor) -> Tensor:
        """(b, d) unnormalised -> the same."""
        return features if self.adapter is None else self.adapter(features)

    def logits(self, logits: Tensor, image_features: Tensor, rows: Tensor) -> Tensor:
        """(b, c) logits of the towers and (b, d) unit features -> (b, c)."""
        with torch.autocast(image_features.device.type, enabled=False):
            for head in (self.cache, self.probe):
                if head is not None:
                    logits = head(logits, image_features, rows)
        return logits


def _grid(most: float, count: int) -> list[float]:
    """Values from the least up to but without ``most``."""
    return [LEAST + i * (most - LEAST) / count for i in range(count)]
