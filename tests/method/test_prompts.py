"""The forms of learned context: where the class name stands, whose context it is, what it depends on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

import oracle
from backbone.tiny_models import TOKENIZER, images, tiny
from restore_vlm.backbone import text_tower
from restore_vlm.errors import UserError
from restore_vlm.method import Losses, MethodConfig, PromptedModel

LISTS = {
    "lengths": ["dog", "tabby cat", "Boeing 737-800", "forget-me-not", "cup_cakes"],
    "one": ["a very long name of one single class of things"],
    # Tokens of names and template that coincide, and closing marks that join the full stop.
    "confusable": ["a", "a photo", "photo of a", "x.", "X", "!", "a", "St. Bernard's dog", "what?!"],
    "same": ["cat", "cat"],
}
NAMES = LISTS["lengths"]
KINDS = ["gelu", "quickgelu", "layerscale", "siglip"]
WORDS = "a photo of a"
TEXT = {"towers": "text", "init": ""}
FORMS = {"shared": {}, "per_class": {"per_class": True}, "conditional": {"conditional": True}}
POSITIONS = ["end", "middle", "front"]
SURGERY = {"text_ratio": 0.3, "vision_ratio": 0.2}


def make(kind: str, names: list[str] = NAMES, dtype: torch.dtype = torch.float32, **prompts) -> PromptedModel:
    """A model whose learned tensors are large enough to matter."""
    torch.manual_seed(0)
    surgery = prompts.pop("surgery", None)
    config = MethodConfig(name="test", prompts=TEXT | prompts, surgery=surgery)
    model = PromptedModel(tiny(kind)[1], config, names)
    for parameter in model.trainable().values():
        parameter.data += 0.2 * torch.randn_like(parameter)
    if dtype != torch.float32:
        model.prompts.to(dtype)
        model.backbone = tiny(kind, dtype)[1]
    return model


def tuned(model: PromptedModel, pictures: Tensor) -> Tensor:
    """(c, d) or (b, c, d) unit features of the classes."""
    image = model.encode_image(pictures)[0] if model.config.conditional else None
    return model.encode_text(image_features=image)[0]


def of_text(features: Tensor, model: PromptedModel) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    loss = (features * torch.randn(features.shape, generator=random).to(features)).sum()
    named = model.trainable()
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))


def assert_plain(kind: str, names: list[str], **prompts) -> None:
    """Logits over their scale and gradients are the plain path's."""
    clip, backbone = tiny(kind)
    model, pictures = make(kind, names, **prompts), images(backbone, 3)
    scale = clip.logit_scale.exp().item()
    ours, theirs = model(pictures) / scale, oracle.plain_logits(clip, model, pictures) / scale
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    both = of_text(ours, model), of_text(theirs, model)
    for name, wanted in both[1].items():
        assert (both[0][name] - wanted).norm() <= 1e-5 * max(wanted.norm(), 1), name


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("length", [1, 4, 5])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_the_plain_path(kind: str, position: str, form: str, length: int, depth: int) -> None:
    assert_plain(kind, NAMES, class_position=position, length=length, depth=depth, **FORMS[form])


@pytest.mark.parametrize("names", LISTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["quickgelu", "siglip"])
def test_names(kind: str, position: str, form: str, names: str) -> None:
    for length, init in ((3, ""), (2, WORDS), (4, WORDS)):
        assert_plain(
            kind, LISTS[names], class_position=position, length=length, init=init, depth=2, **FORMS[form]
        )


@pytest.mark.parametrize("towers", ["text", "both"])
@pytest.mark.parametrize("kind", ["gelu", "siglip"])
def test_conditional_with_surgery_and_image_prompts(kind: str, towers: str) -> None:
    assert_plain(kind, NAMES, conditional=True, towers=towers, depth=2, length=3, surgery=SURGERY)


@pytest.mark.parametrize("position", POSITIONS)
def test_coupled_prompts_take_every_position(position: str) -> None:
    assert_plain("gelu", NAMES, towers="both", coupled=True, class_position=position, init=WORDS)


@pytest.mark.parametrize(
    ("position", "shared"), [("end", "<s> X X X X X"), ("middle", "<s> X X"), ("front", "<s>")]
)
def test_the_shared_prefix_is_computed_once(position: str, shared: str) -> None:
    model = make("gelu", ["cat", "dog"], class_position=position, length=5)
    assert len(model.classes.prefix) == len(shared.split())
    model = make("gelu", ["cat", "dog"], class_position=position, length=5, per_class=True)
    assert len(model.classes.prefix) == 1


@pytest.mark.parametrize("position", POSITIONS)
def test_order_of_the_tokens(position: str) -> None:
    """The words a context starts from stand where its tokens do, and end-of-text does not move."""
    model = make("gelu", ["tabby cat"], class_position=position, init=WORDS, length=4)
    prompt = {
        "end": "a photo of a tabby cat.",
        "middle": "a photo tabby cat of a.",
        "front": "tabby cat a photo of a.",
    }[position]
    assert torch.equal(model.classes.ids, TOKENIZER([prompt]))


@pytest.mark.parametrize("init", ["", WORDS])
def test_context_per_class(init: str) -> None:
    torch.manual_seed(0)
    config = MethodConfig(
        name="test", prompts={"towers": "text", "length": 4, "init": init, "per_class": True}
    )
    model = PromptedModel(tiny("gelu")[1], config, NAMES)
    context = model.prompt_tokens()[0][0]
    assert context.shape == (len(NAMES), 4, 32)
    alike = [torch.equal(context[0], other) for other in context[1:]]
    assert all(alike) if init else not any(alike)


def test_classes_never_seen_get_the_mean_context() -> None:
    model, shared = make("gelu", per_class=True), make("gelu")
    pictures = images(model.backbone)
    with torch.no_grad():
        seen = tuned(model, pictures)
        for mine, common in zip(shared.prompts.text, model.prompts.text, strict=True):
            mine.copy_(common.mean(0) if common.ndim == 3 else common)
        model.set_classes(["goldfish", NAMES[2], "wok"])
        shared.set_classes(["goldfish", "wok"])
        asked, unseen = tuned(model, pictures), tuned(shared, pictures)
    torch.testing.assert_close(asked[[0, 2]], unseen, atol=1e-5, rtol=0)
    torch.testing.assert_close(asked[1], seen[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["gelu", "siglip"])
def test_scorer_gives_the_logits_of_a_forward_pass(kind: str, form: str, position: str) -> None:
    model = make(kind, class_position=position, **FORMS[form])
    pictures = images(model.backbone, 5)
    with torch.inference_mode():
        torch.testing.assert_close(model.scorer()(pictures), model(pictures), atol=1e-4, rtol=0)
        model.set_classes(["goldfish", *NAMES[:2]])
        torch.testing.assert_close(model.scorer()(pictures), model(pictures), atol=1e-4, rtol=0)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("kept", "chunks"), [(0.5, [1] * 5), (1, [1] * 5), (2.5, [2, 2, 1]), (5, [5])])
@pytest.mark.parametrize("kind", ["gelu", "siglip"])
def test_chunks_change_nothing(
    kind: str, kept: float, chunks: list[int], depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, gradients, states and logits, with room for so many of five images."""
    model = make(kind, conditional=True, depth=depth, surgery=SURGERY)
    pictures, labels = images(model.backbone, 5), torch.tensor([0, 1, 2, 3, 4])
    losses, passes, one_pass = Losses(model.config, model), [], text_tower.TextTower._pass

    def counted(self, classes, prompts, *options):
        passes.append(len(prompts[0]))
        return one_pass(self, classes, prompts, *options)

    monkeypatch.setattr(text_tower.TextTower, "_pass", counted)

    def step() -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        passes.clear()
        loss = sum(losses(model, pictures, labels)[1].values())
        gradients = torch.autograd.grad(loss, list(model.trainable().values()))
        with torch.no_grad():
            out = model.encode(pictures, states=True)
        return loss, gradients, out.text_states, out.logits

    whole = step()
    assert passes == [5, 5]
    one_block = model.backbone.text.activations(model.classes, 1)
    monkeypatch.setattr(text_tower, "KEPT", int(kept * model.backbone.text.depth * one_block))
    monkeypatch.setattr(text_tower, "PASSING", int(kept * one_block))
    torch.testing.assert_close(step(), whole, atol=1e-5, rtol=1e-5)
    again = chunks[::-1] if 1 <= kept < 5 else []
    assert passes == chunks + again + chunks


@pytest.mark.parametrize("kind", ["gelu", "siglip"])
def test_little_is_kept_where_one_image_has_too_much(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(kind, [f"thing {i}" for i in range(60)], conditional=True)
    pictures = images(model.backbone, 4)

    def kept() -> int:
        sizes = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(pictures)
        return sum(sizes.values())

    everything = kept()
    monkeypatch.setattr(text_tower, "KEPT", 1)
    assert kept() < everything / 3


def test_half_precision_keeps_the_meta_net_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("gelu", conditional=True)
    pictures, seen = images(model.backbone), []
    model.prompts.meta_net.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    monkeypatch.setattr(text_tower, "KEPT", 1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(pictures)
    exact = model(pictures)
    assert seen == [torch.float32] * 2
    assert F.cosine_similarity(logits.float(), exact).min() > 0.99
    logits.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.trainable().values())


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["quickgelu", "siglip"])
def test_gradcheck(kind: str, form: str, position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    double = torch.float64
    model = make(kind, ["cat", "tabby cat"], double, class_position=position, depth=2, **FORMS[form])
    features = F.normalize(torch.randn(2, model.backbone.dim, dtype=double), dim=-1).requires_grad_()
    named = dict(model.prompts.named_parameters())
    random = [torch.randn(p.shape, dtype=double) for p in named.values()]

    def along(steps: Tensor, features: Tensor) -> Tensor:
        moved = {n: p.detach() + s * r for (n, p), s, r in zip(named.items(), steps, random, strict=True)}

        def text(prompts: nn.Module) -> Tensor:
            tokens = prompts.text_for(prompts()[0], model.rows, features)
            return model.backbone.text(model.classes, tokens)[0]

        return torch.func.functional_call(
            Call(model.prompts, text), {f"part.{n}": v for n, v in moved.items()}
        )

    steps = torch.zeros(len(named), dtype=double, requires_grad=True)
    inputs = (steps, features if model.config.conditional else features.detach())
    assert gradcheck(along, inputs)
    if model.config.conditional:
        monkeypatch.setattr(text_tower, "KEPT", 1)
        assert gradcheck(along, inputs)


class Call(nn.Module):
    """``function`` of a module, for ``functional_call``."""

    def __init__(self, part: nn.Module, function) -> None:
        super().__init__()
        self.part, self.function = part, function

    def forward(self) -> Tensor:
        return self.function(self.part)


def test_meta_net_has_a_hidden_unit_however_small_the_model() -> None:
    model = make("quickgelu", conditional=True)
    assert model.backbone.dim == 24
    assert model.prompts.meta_net.linear1.weight.shape == (1, 24)
    narrow = model.prompts.meta_net.linear2
    assert narrow.weight.shape == (32, 1)


def test_conditional_prompts_say_what_they_need() -> None:
    with pytest.raises(UserError, match="no class features without an image"):
        make("gelu", conditional=True).encode_text()


@pytest.mark.parametrize("position", POSITIONS)
def test_name_that_fills_the_tower_is_refused(position: str) -> None:
    with pytest.raises(UserError, match="shorten the class name"):
        make("siglip", ["cat", " ".join(["bird"] * 17)], class_position=position, length=5)
    make("siglip", ["cat", " ".join(["bird"] * 15)], class_position=position, length=5)
