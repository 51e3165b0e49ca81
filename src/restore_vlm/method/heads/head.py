"""What a head has to say, and where it is asked."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from restore_vlm.backbone import Backbone
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.part import Areas, Part, PartModule


@dataclass(frozen=True)
class Views:
    """What a head is fitted to: frozen features of the training images, in fp32.

    Attributes:
        count: Views of each image whose unnormalised features are added up.
        crop: Areas of random crops that the views are; None is the whole image as in evaluation.
    """

    count: int = 1
    crop: Areas | None = None


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


class HeadConfig(Part):
    """The hyper-parameters of a head.

    Attributes:
        saved_as: What its tensors are called in saved adapters, if not by its key.
    """

    saved_as: ClassVar[str] = ""

    @abstractmethod
    def build(self, backbone: Backbone, classes: int) -> Head:
        """The head, for a backbone and a number of training classes."""


class Head(PartModule):
    """Something between the towers' features and the answer; each method is one place to stand in.

    ``rows`` maps the classes asked about to those of training: (c,), -1 for a class never seen.
    """

    views: Views | None = None
    """What it is fitted to before training, or instead of it."""
    validates: bool = False
    """Whether :meth:`fit` chooses settings where there are validation photos."""
    tunes: bool = False
    """Whether :meth:`tune` does."""

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        """(c, d) or (b, c, d) unnormalised class features -> the same."""
        return features

    def image(self, features: Tensor) -> Tensor:
        """(b, d) unnormalised image features -> the same."""
        return features

    def logits(self, out: Encoded, rows: Tensor) -> Tensor:
        """(b, c) logits in place of ``out.logits``, in full precision; ``out`` has the unit features too."""
        return out.logits

    def fit(
        self, features: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None = None
    ) -> Choice | None:
        """Makes the head of the training images.

        Args:
            features: (m, d), unnormalised, what :attr:`views` asks for.
            labels: (m,).
            validation: Features (n, d) of whole validation images and labels (n,), for a head that
                :attr:`validates`.

        Returns:
            What was chosen on them.
        """
        raise NotImplementedError

    def tune(self, out: Encoded, rows: Tensor, labels: Tensor) -> Choice:
        """Chooses settings on validation photos at the end of all training, for a head that :attr:`tunes`.

        Args:
            out: Of the photos, without this head: (n, c) logits and unit features.
            rows: (c,) of the training classes.
            labels: (n,), columns of the logits.

        Returns:
            What was chosen.
        """
        raise NotImplementedError
