"""A prompt kind, an adapter between blocks, and a second head with features and a loss of its own.

Each is its own class with its configuration; nothing else in the package knows of it.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from backbone.tiny_models import CLOSED, build, images, tiny, wrap
from restore_vlm.errors import UserError
from restore_vlm.method import Encoded, Gradient, Losses, MethodConfig, PromptedModel
from restore_vlm.method.describe import learned, rules
from restore_vlm.method.heads import Head, HeadConfig, HeadsConfig
from restore_vlm.method.losses import Loss, LossConfig, LossesConfig
from restore_vlm.method.prompts import PromptConfig, Prompts
from restore_vlm.method.weights import WeightsConfig, WeightsPart
from restore_vlm.method.weights.part import Inserted

NAMES = ["tabby cat", "dog", "cup_cakes"]


class MiddleConfig(PromptConfig):
    """Tokens put in before block ``start``, that go on to the end; the image tower's are read there."""

    start: NonNegativeInt = 1
    depth: int = 1

    def describe(self) -> str:
        return f"prompts from block {self.start} on"

    def build(self, backbone, classes: int) -> Prompts:
        return Middle(self, backbone, classes)


class Middle(Prompts):
    def tokenize(self, backbone, names):
        return backbone.text.tokenize([f"a photo of a {name}." for name in names])

    def encode_text(self, tower, classes, tokens, states):
        x = tower.run(tower.embed(classes), classes, 0, self.config.start)
        x = tower.run(tower.insert(x, classes, tokens[0]), classes, self.config.start)
        return tower.read_out(x)[0], []

    def encode_image(self, tower, images, tokens, states):
        x = tower.run(tower.embed(images), 0, self.config.start)
        own = x.shape[1]
        x = tower.run(torch.cat([x, tokens[0].expand(len(x), -1, -1)], dim=1), self.config.start)
        return tower.read_out(x[:, :own]), [], {"tokens": x[:, own:].mean(1)}


class SharedConfig(WeightsPart):
    """An adapter behind every block from ``start`` on, whose middle both towers share."""

    start: NonNegativeInt = 1

    def enters(self, tower) -> bool:
        return True

    def describe(self) -> str:
        return "shared adapters"

    def build(self, backbone) -> dict[str, Any]:
        backbone.entered("both", "Adapters cannot enter")
        middle = nn.Linear(4, 4)
        return {name: Adapted(getattr(backbone, name), self.start, middle) for name in ("image", "text")}


class Adapted(Inserted):
    def __init__(self, tower, start: int, middle: nn.Module) -> None:
        super().__init__()
        self.tower, self.start = tower, start
        layers = range(tower.depth - start)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Linear(tower.width, 4), nn.ReLU(), middle, nn.Linear(4, tower.width))
            for _ in layers
        )

    def forward(self, what, prompts=(), states: bool = False):
        classes = () if isinstance(what, Tensor) else (what,)
        x, seen = self.tower.embed(what), []
        for layer in range(self.tower.depth):
            x = self.tower.run(x, *classes, layer, layer + 1)
            if layer >= self.start:
                x = x + 0.1 * self.adapters[layer - self.start](x)
        features = self.tower.read_out(x)
        return (features[0] if classes else features), seen


class SecondConfig(HeadConfig):
    def learns(self, tower) -> bool:
        return False

    @property
    def trainable(self) -> bool:
        return True

    def build(self, backbone, classes: int) -> Head:
        return Second(backbone.image.width, backbone.dim)


class Second(Head):
    """Compares what the image tower's tokens became, by a projection of its own, with the classes."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, dim)
        self.register_buffer("epochs", torch.zeros(()))

    def logits(self, out: Encoded, rows: Tensor) -> Tensor:
        own = F.normalize(self.projection(out.extra["tokens"]), dim=-1)
        out.extra["second"] = 10 * own @ out.text_features.T
        return torch.where(rows >= 0, (out.logits + out.extra["second"]) / 2, out.logits)

    def end_epoch(self, epoch: int, epochs: int, tokens) -> None:
        self.epochs += len(tokens["image"])


class SecondEntropyConfig(LossConfig):
    def build(self, model, mean=None) -> Loss:
        return SecondEntropy(self)


class SecondEntropy(Loss):
    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return F.cross_entropy(out.extra["second"], labels)


class MyHeads(HeadsConfig):
    second: SecondConfig | None = None


class MyLosses(LossesConfig):
    second_entropy: SecondEntropyConfig | None = None


class MyWeights(WeightsConfig):
    shared: SharedConfig | None = None


class MyMethod(MethodConfig):
    middle: MiddleConfig | None = None
    weights: MyWeights = MyWeights()
    heads: MyHeads = MyHeads()
    losses: MyLosses = MyLosses()


METHODS = {
    "middle prompts": (MyMethod(name="it", middle={}), "prompts from block 1 on"),
    "shared adapters": (MyMethod(name="it", weights={"shared": {}}), "shared adapters"),
    "second head": (
        MyMethod(name="it", middle={}, heads={"second": {}}, losses={"second_entropy": {}}, surgery={}),
        "dynamic surgery; second; prompts from block 1 on",
    ),
}


@pytest.mark.parametrize("kind", METHODS)
def test_new_parts_learn_and_are_saved(kind: str) -> None:
    config, words = METHODS[kind]
    assert learned(config) == words
    assert rules(config) == "cross entropy" + ", second entropy" * (kind == "second head")
    backbone = tiny("gelu")[1]
    torch.manual_seed(0)
    model = PromptedModel(backbone, config, NAMES).train()
    pictures, labels = images(backbone, 3), torch.tensor([0, 1, 2])
    gradient = Gradient(Losses(config, model), model)
    optimiser, seen = torch.optim.SGD(model.trainable().values(), lr=0.01), []
    for epoch in range(4):
        terms = gradient.backward(model, pictures, labels)[1]
        assert all(p.grad is not None and p.grad.any() for p in model.trainable().values())
        optimiser.step()
        optimiser.zero_grad()
        model.end_epoch(epoch, 4)
        seen.append(sum(terms.values()).item())
    assert seen[-1] < seen[0]
    assert not any(p.requires_grad for p in backbone.parameters())
    state = model.adapter_state()
    assert not any(name.startswith("backbone") or ".tower." in name for name in state)
    torch.manual_seed(1)
    other = PromptedModel(backbone, config, NAMES)
    assert not other.load_state_dict(state, strict=False).unexpected_keys
    for names in (NAMES, ["goldfish", "dog"]):
        for each in (model.eval(), other.eval()):
            each.set_classes(names)
        with torch.inference_mode():
            assert torch.equal(model.scorer()(pictures), other.scorer()(pictures))
            torch.testing.assert_close(model.scorer()(pictures), model(pictures))
    if kind == "second head":
        assert state["heads.second.epochs"] == 4


def test_both_towers_share_the_middle() -> None:
    model = PromptedModel(tiny("gelu")[1], METHODS["shared adapters"][0], NAMES)
    text, image = model.weights.text, model.weights.image
    assert text.adapters[0][2] is image.adapters[1][2]
    middles = [name for name in model.trainable() if name.endswith("adapters.0.2.weight")]
    assert middles == ["weights.image.adapters.0.2.weight"]


def test_new_parts_say_what_they_do_not_go_with() -> None:
    config = METHODS["shared adapters"][0]
    assert config.enters("text") and config.learns("image") and not config.conditional
    with pytest.raises(ValueError, match=r"weights\.lora or weights\.shared, not both"):
        MyMethod(name="it", weights={"shared": {}, "lora": {}})
    with pytest.raises(ValueError, match="prompts or middle, not both"):
        MyMethod(name="it", prompts={}, middle={})
    with pytest.raises(UserError, match="Adapters cannot enter the image tower of"):
        PromptedModel(wrap(build(**CLOSED["resnet"])), config, NAMES)
