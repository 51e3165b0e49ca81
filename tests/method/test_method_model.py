"""Every composition of a method's parts builds, learns and answers for classes it never saw."""

from functools import cache
from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.autograd import gradcheck

import oracle
from backbone.tiny_models import TEXT, VISION, build, images, wrap
from restore_vlm.backbone import Backbone
from restore_vlm.method import Losses, MethodConfig, PromptedModel
from restore_vlm.method.shift import KNEE, consistency, embedding_shift, prompt_norm, tempered
from restore_vlm.method.surgery import Surgery

NAMES = ["tabby cat", "dog", "Boeing 737-800", "cup_cakes"]
LAYOUTS = {
    "none": None,
    "text": {"towers": "text"},
    "image": {"towers": "image"},
    "both": {"towers": "both"},
    "coupled": {"towers": "both", "coupled": True},
}
SURGERY = {"text_ratio": 0.1, "vision_ratio": 0.2}
LOSSES = {
    "cross_entropy": {},
    "prompt": {"feature_shift": {"measure": "prompt"}},
    "embedding": {"feature_shift": {"measure": "embedding", "weight": 0.5}},
    "embedding_alone": {"cross_entropy": None, "feature_shift": {"measure": "embedding"}},
}


@cache
def uneven() -> tuple[nn.Module, Backbone]:
    """Towers of odd widths and unequal depths."""
    model = build(
        embed_dim=36,
        vision_cfg=VISION | {"width": 80, "layers": 5},
        text_cfg=TEXT | {"width": 48, "layers": 2},
    )
    return model, wrap(model)


def method(layout: str, surgery: bool = False, losses: str = "cross_entropy", **prompts) -> MethodConfig:
    return MethodConfig(
        name="test",
        prompts=None if layout == "none" else LAYOUTS[layout] | prompts,
        surgery=SURGERY if surgery else None,
        losses=LOSSES[losses],
    )


def make(config: MethodConfig, names: list[str] = NAMES) -> PromptedModel:
    torch.manual_seed(0)
    return PromptedModel(uneven()[1], config, names)


def batch() -> tuple[Tensor, Tensor]:
    return images(uneven()[1], 4), torch.tensor([0, 3, 1, 2])


COMPOSITIONS = [
    pytest.param(method(layout, surgery, losses, depth=depth), id=f"{layout}-{surgery}-{losses}-{depth}")
    for layout, surgery, losses, depth in product(LAYOUTS, (False, True), LOSSES, (1, 2, 9))
    if (losses == "cross_entropy" or layout in ("both", "coupled"))
    and (surgery or layout != "none")
    and (depth == 2 or layout != "none")
    # Alone, no shift loss reaches the surgery; and at depth 1 text starts at a shift of exactly 0.
    and not (losses == "embedding_alone" and (surgery or depth == 1))
]


@pytest.mark.parametrize("config", COMPOSITIONS)
def test_composition_learns(config: MethodConfig) -> None:
    model = make(config)
    losses, (pictures, labels) = Losses(config, model), batch()
    before = {name: p.detach().clone() for name, p in model.trainable().items()}
    frozen = {name: p.clone() for name, p in model.backbone.named_parameters()}
    optimiser = torch.optim.SGD(model.trainable().values(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    seen = []
    for _ in range(3):
        out, terms = losses(model, pictures, labels)
        assert out.logits.shape == (4, len(NAMES))
        assert set(terms) == {name for name, part in config.losses if part is not None}
        loss = sum(terms.values())
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in model.trainable().items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.norm() > 0, name
        optimiser.step()
        seen.append(loss.item())
    assert all(value - value == 0 for value in seen)
    assert seen[2] < seen[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.trainable().items())
    assert all(torch.equal(p, frozen[name]) for name, p in model.backbone.named_parameters())


@pytest.mark.parametrize(("layout", "layers"), [("text", 2), ("image", 5), ("both", 2), ("coupled", 2)])
def test_depth_is_clipped_to_the_prompted_towers(layout: str, layers: int) -> None:
    model = make(method(layout, depth=99))
    assert model.prompts.depth == layers
    text, image = model.prompt_tokens()
    assert len(text) == (0 if layout == "image" else layers)
    assert len(image) == (0 if layout == "text" else layers)
    assert all(p.shape == (2, 48) for p in text)
    assert all(p.shape == (2, 80) for p in image)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"prompts": {"towers": "text", "coupled": True}}, 'coupled prompts need towers = "both"'),
        ({"prompts": {"towers": "image", "coupled": True}}, 'coupled prompts need towers = "both"'),
        ({"prompts": {"towers": "text"}, "losses": {"feature_shift": {}}}, "needs prompts in both"),
        ({"prompts": {"towers": "image"}, "losses": {"feature_shift": {}}}, "needs prompts in both"),
        ({"losses": {"feature_shift": {}}}, "needs prompts in both"),
        ({"template": "a photo."}, "where the class name goes"),
        ({"template": "{} and {}"}, "where the class name goes"),
        ({"template": "{name} {}"}, "where the class name goes"),
        ({"prompts": {}, "losses": {"cross_entropy": None}}, "no loss to learn"),
        ({"prompts": {"depth": 0}}, "greater than 0"),
        ({"prompts": {"length": 0}}, "greater than 0"),
        ({"prompts": {"towers": "audio"}}, "'text', 'image' or 'both'"),
        ({"surgery": {"text_ratio": -1}}, "greater than or equal to 0"),
        ({"surgery": {"text_ratio": float("nan")}}, "finite|greater"),
        ({"losses": {"feature_shift": {"weight": float("inf")}}}, "finite"),
        ({"prompts": {"lenght": 2}}, "lenght"),
        ({"gradient": "none"}, "'plain' or 'prograd'"),
    ],
)
def test_bad_config(config: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        MethodConfig(name="test", **config)


def test_context_starts_from_words_or_random() -> None:
    clip, backbone = uneven()
    words = clip.token_embedding(backbone.text.tokenizer(["a photo of a"])[0, 1:5])
    for n in (1, 2, 4):
        assert torch.equal(make(method("text", length=n)).prompt_tokens()[0][0], words[:n])
    for options in ({"length": 6}, {"length": 2, "init": ""}, {"length": 3, "init": "photo of"}):
        model = make(method("text", **options))
        assert not model.prompts.from_words
        assert model.prompt_tokens()[0][0].std() < 0.03
        tokens = backbone.text.tokenizer(["dog."])[0, 1:4]
        assert torch.equal(model.classes.ids[1, 1 + options["length"] :][:3], tokens)


def test_coupled_image_tokens_are_a_linear_map_of_the_text_tokens() -> None:
    model = make(method("coupled"))
    text, image = model.prompt_tokens()
    for linear, t, i in zip(model.prompts.coupling, text, image, strict=True):
        torch.testing.assert_close(i, t @ linear.weight.T + linear.bias)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_classes(layout: str) -> None:
    """Other names give what a model made for them would give, and the old ones still work."""
    config, (pictures, _) = method(layout, surgery=True), batch()
    model, new = make(config), ["goldfish", "a very_long name of something unseen", "x."]
    with torch.no_grad():
        old_logits = model(pictures)
        model.set_classes(new)
        logits = model(pictures)
        assert model.classnames == new
        assert logits.shape == (4, 3)
        torch.testing.assert_close(logits, make(config, new)(pictures))
        torch.testing.assert_close(
            logits, oracle.plain_logits(uneven()[0], model, pictures), atol=1e-4, rtol=0
        )
        model.set_classes(NAMES)
        assert torch.equal(model(pictures), old_logits)
        model.set_classes(NAMES[::-1])
        torch.testing.assert_close(model(pictures), old_logits.flip(1), atol=1e-4, rtol=0)


def test_underscores_are_spaces() -> None:
    model, (pictures, _) = make(method("both"), ["cup_cakes", "cup cakes"]), batch()
    logits = model(pictures)
    assert torch.equal(logits[:, 0], logits[:, 1])


@pytest.mark.parametrize("surgery", [False, True])
@pytest.mark.parametrize("layout", ["image", "none"])
def test_fixed_text_is_encoded_once(layout: str, surgery: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (pictures, _) = make(method(layout, surgery)), batch()
    calls, forward = [], model.backbone.text.forward

    def counted(*args, **options):
        calls.append(torch.is_grad_enabled())
        return forward(*args, **options)

    monkeypatch.setattr(model.backbone.text, "forward", counted)
    out = [model.encode(pictures) for _ in range(3)]
    assert calls == [False]
    assert out[0].text_features.requires_grad == surgery
    assert torch.equal(out[0].text_features, out[2].text_features)
    model.set_classes(["goldfish"])
    assert model(pictures).shape == (4, 1)
    assert len(calls) == 2


def test_fixed_text_of_an_evaluation_can_be_trained_on() -> None:
    model, (pictures, _) = make(method("image", surgery=True)), batch()
    with torch.inference_mode():
        evaluated = model(pictures)
    logits = model(pictures)
    torch.testing.assert_close(logits, evaluated)
    logits.sum().backward()


def test_image_tower_needs_no_backward_pass_without_image_prompts() -> None:
    out = make(method("text")).encode(batch()[0])
    assert not out.image_features.requires_grad
    assert out.text_features.requires_grad


def test_features_are_float32_unit_vectors() -> None:
    model, (pictures, _) = make(method("coupled", surgery=True)), batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = model.encode(pictures)
    for features in (out.image_features, out.text_features):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4))
    assert out.logits.dtype == torch.float32


def test_states_only_when_asked() -> None:
    model, (pictures, _) = make(method("both")), batch()
    plain, seen = model.encode(pictures), model.encode(pictures, states=True)
    assert plain.text_states == plain.image_states == []
    assert [s.shape for s in seen.text_states] == [(4, 48)] * 2
    assert [s.shape for s in seen.image_states] == [(4, 80)] * 5
    assert torch.equal(plain.logits, seen.logits)


SURGERY_TENSORS = ["norm.weight", "norm.bias", "ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias"]
ADAPTERS = {
    "none": set(),
    "text": {"prompts.text.0", "prompts.text.1"},
    "image": {f"prompts.image.{i}" for i in range(5)},
    "both": {f"prompts.{tower}.{i}" for tower in ("text", "image") for i in (0, 1)},
    "coupled": {"prompts.text.0", "prompts.text.1"}
    | {f"prompts.coupling.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")},
}


@pytest.mark.parametrize("surgery", [False, True])
@pytest.mark.parametrize("layout", ADAPTERS)
def test_adapter_state(layout: str, surgery: bool) -> None:
    """It is what training changes and no more: it makes a fresh model equal to the trained one."""
    config, (pictures, _) = method(layout, surgery), batch()
    model = make(config)
    wanted = set(ADAPTERS[layout])
    if surgery:
        blocks = ("text_surgery", "image_surgery")
        wanted |= {f"{block}.{leaf}" for block in blocks for leaf in [*SURGERY_TENSORS, "ratio"]}
    assert set(model.adapter_state()) == wanted
    assert not any(value.requires_grad for value in model.adapter_state().values())
    for parameter in model.trainable().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.end_epoch(1, 3)
    fresh = make(config)
    missing, unexpected = fresh.load_state_dict(model.adapter_state(), strict=False)
    assert unexpected == []
    assert all(name.startswith("backbone.") for name in missing)
    assert torch.equal(fresh(pictures), model(pictures))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_surgery_growth(layout: str) -> None:
    """r += factor x mean over layers 1..J-1 of ||P^T P||_F."""
    model = make(method(layout, surgery=True))
    with torch.no_grad():
        for parameter in model.prompts.parameters() if model.prompts else []:
            parameter += 0.3 * torch.randn_like(parameter)
    wanted = []
    for ratio, factor, tokens in zip((0.1, 0.2), (0.02, 0.005), model.prompt_tokens(), strict=True):
        norms = [torch.linalg.matrix_norm(p.T @ p, "fro") for p in tokens[1:]]
        wanted.append(ratio + factor * sum(norms) / len(norms) if norms else torch.tensor(ratio))
    model.end_epoch(1, 3)
    torch.testing.assert_close(model.text_surgery.ratio, wanted[0].detach())
    torch.testing.assert_close(model.image_surgery.ratio, wanted[1].detach())
    assert not model.text_surgery.ratio.requires_grad
    make(method("both")).end_epoch(1, 3)


def test_surgery_formula() -> None:
    torch.manual_seed(0)
    surgery, f = Surgery(6, 0.3), torch.randn(4, 6)
    up, down = surgery.ffn[0], surgery.ffn[2]
    assert up.weight.shape == (24, 6)
    hidden = torch.nn.functional.layer_norm(f, (6,)) @ up.weight.T + up.bias
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    torch.testing.assert_close(surgery(f), f + 0.3 * (hidden @ down.weight.T + down.bias))
    assert torch.equal(Surgery(6, 0.0)(f), f)


@pytest.mark.parametrize("measure", ["prompt", "embedding"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_losses_are_weighted(measure: str, weight: float) -> None:
    def terms(fs_weight: float, ce_weight: float) -> dict[str, Tensor]:
        losses = {
            "cross_entropy": {"weight": ce_weight},
            "feature_shift": {"weight": fs_weight, "measure": measure},
        }
        config = MethodConfig(name="test", prompts={}, losses=losses)
        model = make(config)
        parts = Losses(config, model)
        with torch.no_grad():
            model.prompts.text[1] *= 1.5
            return parts(model, *batch())[1]

    one, weighted = terms(1, 1), terms(weight, 3)
    assert one["feature_shift"] > 0
    torch.testing.assert_close(weighted["feature_shift"], weight * one["feature_shift"])
    torch.testing.assert_close(weighted["cross_entropy"], 3 * one["cross_entropy"])


def test_prompt_measure_is_relative_to_initialisation() -> None:
    config = method("coupled", losses="prompt")
    model = make(config)
    losses = Losses(config, model)
    assert losses(model, *batch())[1]["feature_shift"] == 0
    with torch.no_grad():
        before = [prompt_norm(p) for p in (model.prompt_tokens()[0][1], model.prompt_tokens()[1][1])]
        model.prompts.text[1] *= 1.4
        after = [prompt_norm(p) for p in (model.prompt_tokens()[0][1], model.prompt_tokens()[1][1])]
        text, image = (a / b for a, b in zip(after, before, strict=True))
        torch.testing.assert_close(losses(model, *batch())[1]["feature_shift"], (text - image) ** 2)


def test_gradcheck_surgery() -> None:
    torch.manual_seed(0)
    surgery, features = Surgery(4, 0.3).double(), torch.randn(3, 4).double().requires_grad_()
    assert gradcheck(surgery, features)
    parameters = [p.detach().requires_grad_() for p in surgery.parameters()]
    names = [name for name, _ in surgery.named_parameters()]

    def of_parameters(*values: Tensor) -> Tensor:
        return torch.func.functional_call(
            surgery, dict(zip(names, values, strict=True)), (features.detach(),)
        )

    assert gradcheck(of_parameters, parameters)


def test_gradcheck_consistency_and_tempered() -> None:
    torch.manual_seed(0)
    text, vision = (torch.rand(n).double().mul(3).requires_grad_() for n in (3, 5))
    assert gradcheck(consistency, (text, vision))
    around = torch.tensor([0.0, 1.0, KNEE - 0.1, KNEE + 0.1, 50.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(tempered, around)


def test_gradcheck_shift() -> None:
    """Both measures compute in float32, hence the wide step."""
    torch.manual_seed(0)
    wide = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-3}
    prompt = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(prompt_norm, prompt, **wide)
    states, frozen = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    states.requires_grad_()
    assert gradcheck(lambda s: embedding_shift(list(s), list(frozen)), states, **wide)
