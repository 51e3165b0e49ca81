"""The anchors against their formulas, and the frozen model asked no more than it must be."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from backbone.tiny_models import images, tiny
from restore_vlm.method import Gradient, Losses, MethodConfig, PromptedModel, load_recipe
from restore_vlm.method.gradient import project_out
from restore_vlm.method.hand_written import encode_templates
from restore_vlm.method.losses import LossesConfig, distance, divergence
from restore_vlm.method.templates import sets, templates

NAMES = ["tabby cat", "dog", "cup_cakes"]
KINDS = ("quickgelu", "siglip")
BOTH = {"towers": "both", "length": 2, "depth": 2}
ANCHORS = {
    "text_anchor": {"distance": "l1"},
    "image_anchor": {"distance": "cosine"},
    "logit_anchor": {},
}


def make(kind: str = "quickgelu", moved: bool = True, **parts) -> tuple[PromptedModel, Tensor, Tensor]:
    """A model that has left its starting point, images and labels."""
    backbone = tiny(kind)[1]
    torch.manual_seed(0)
    model = PromptedModel(backbone, MethodConfig(name="test", **parts), NAMES)
    for parameter in model.trainable().values() if moved else ():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, images(backbone, 4), torch.tensor([0, 2, 1, 2])


def encode(tower, prompts: list[str]) -> Tensor:
    with torch.no_grad():
        return tower(tower.tokenize(prompts))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_anchors_are_their_formulas(kind: str, ensemble: bool, metric: str) -> None:
    losses = {
        "text_anchor": {"weight": 3, "distance": metric},
        "image_anchor": {"weight": 5, "distance": metric},
    }
    model, pictures, labels = make(
        kind, prompts=BOTH, ensemble=ensemble, losses=losses | {"logit_anchor": {"weight": 7}}
    )
    out, terms = Losses(model.config, model)(model, pictures, labels)
    asked = templates() if ensemble else ["a photo of a {}."]
    names = [name.replace("_", " ") for name in NAMES]
    text = torch.stack([encode(model.backbone.text, [t.format(n) for n in names]) for t in asked]).mean(0)
    with torch.no_grad():
        image = model.backbone.image(pictures)[0]
    text, image = text / text.norm(dim=1, keepdim=True), image / image.norm(dim=1, keepdim=True)
    zero_shot = model.backbone.logits(image, text).softmax(1)
    tuned = out.logits.softmax(1)

    def away(a: Tensor, b: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(a, b).mean() if metric == "cosine" else (a - b).abs().sum() / a.numel()

    torch.testing.assert_close(terms["text_anchor"], 3 * away(out.text_features, text), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        terms["image_anchor"], 5 * away(out.image_features, image), atol=1e-5, rtol=1e-4
    )
    kl = (zero_shot * (zero_shot.log() - tuned.log())).sum() / 12
    torch.testing.assert_close(terms["logit_anchor"], 7 * kl, atol=1e-5, rtol=1e-3)
    assert all(term > 0 and term.requires_grad for term in terms.values())


@pytest.mark.parametrize("name", [name for name in LossesConfig.model_fields if name != "cross_entropy"])
def test_nothing_moved_is_no_loss(name: str) -> None:
    """At the hand-written prompt itself, or with prompts that change nothing yet."""
    text_only = {"towers": "text", "length": 4, "depth": 1}
    parts = {"prompts": BOTH} if name == "feature_shift" else {"prompts": text_only}
    model, pictures, labels = make(moved=False, losses={name: {}}, **parts)
    term = Losses(model.config, model)(model, pictures, labels)[1][name]
    assert abs(term.item()) < 1e-5


@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_gradcheck_distance(metric: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    frozen = F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=-1)
    assert gradcheck(lambda f: distance(F.normalize(f, dim=-1), frozen, metric), features)


def test_gradcheck_divergence_and_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    zero_shot, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    assert gradcheck(lambda x: divergence(x, zero_shot), logits)
    assert gradcheck(lambda x: F.cross_entropy(x, labels), logits)
    assert divergence(zero_shot, zero_shot) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_templates_one_after_the_other(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean, CLIP's ensemble, and never more classes in the tower than there are."""
    tower = tiny(kind)[1].text
    asked = [[t.format(n) for n in NAMES] for t in templates()]
    each = torch.stack([encode(tower, prompts) for prompts in asked])
    sizes, forward = [], tower.forward

    def counted(classes, *args, **options):
        sizes.append(len(classes))
        return forward(classes, *args, **options)

    monkeypatch.setattr(tower, "forward", counted)
    found = encode_templates(tower, (tower.tokenize(prompts) for prompts in asked))
    assert sizes == [len(NAMES)] * 60
    torch.testing.assert_close(found.mean, each.mean(0), atol=1e-5, rtol=1e-4)
    unit = F.normalize(F.normalize(each, dim=-1).mean(0), dim=-1)
    torch.testing.assert_close(F.normalize(found.ensemble, dim=-1), unit, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.ensemble.norm(dim=-1), each.norm(dim=-1).mean(0))
    one = encode_templates(tower, [tower.tokenize(asked[0])])
    assert torch.equal(one.mean, each[0])
    assert torch.equal(one.ensemble, each[0])


def test_bundled_sets_of_templates() -> None:
    for name, found in sets().items():
        assert len(found) == len(set(found)) == int(name.rpartition("_")[2])
        assert all(t.count("{}") == 1 and t.endswith(".") for t in found)
        assert set(found) <= set(sets()["imagenet_80"])
    assert templates() == sets()["promptsrc_60"]
    assert templates(False) == ()
    assert sets()["imagenet_8"] == (*sets()["imagenet_7"], "a photo of a {}.")


@pytest.mark.parametrize("raw", [False, True])
def test_an_ensemble_is_a_set_or_a_list(raw: bool) -> None:
    """Averaged as unit vectors, or as they are (TaskRes)."""
    for ensemble in ("imagenet_7", ("a photo of a {}.", "a drawing of {}.")):
        model, *_ = make(ensemble=ensemble, raw_ensemble=raw)
        tower, names = model.backbone.text, [name.replace("_", " ") for name in NAMES]
        each = torch.stack([encode(tower, [t.format(n) for n in names]) for t in templates(ensemble)])
        wanted = F.normalize((each if raw else F.normalize(each, dim=-1)).mean(0), dim=-1)
        torch.testing.assert_close(model.encode_text()[0], wanted, atol=1e-5, rtol=1e-4)


def test_asked_in_other_words_a_model_stays_as_it_is() -> None:
    model, pictures, _ = make(ensemble="imagenet_7", heads={"task_residual": {}})
    before = model.encode(pictures).logits
    other = model.asked_in(template="a drawing of {}.", ensemble=False)
    assert other.config.template == "a drawing of {}."
    assert not torch.allclose(other.encode(pictures).logits, before)
    assert torch.equal(model.encode(pictures).logits, before)
    assert other.heads.residual is model.heads.residual
    assert torch.equal(model.asked_in().encode(pictures).logits, before)


@pytest.mark.parametrize("prompts", [None, {"towers": "image"}])
def test_an_ensemble_scores_like_clip(prompts: dict | None) -> None:
    model, pictures, _ = make(ensemble=True, prompts=prompts)
    tower = model.backbone.text
    names = [name.replace("_", " ") for name in NAMES]
    each = [F.normalize(encode(tower, [t.format(n) for n in names]), dim=-1) for t in templates()]
    wanted = F.normalize(torch.stack(each).mean(0), dim=-1)
    torch.testing.assert_close(model.encode_text()[0], wanted, atol=1e-5, rtol=1e-4)
    out = model.encode(pictures)
    torch.testing.assert_close(
        out.logits, model.backbone.logits(out.image_features, wanted), atol=1e-3, rtol=1e-4
    )
    single = make(prompts=prompts)[0].encode_text()[0]
    assert not torch.allclose(single, wanted, atol=1e-3)


EVERYTHING = {
    "prompts": BOTH,
    "gradient": "prograd",
    "losses": ANCHORS | {"feature_shift": {"measure": "embedding"}},
}


@pytest.mark.parametrize(
    ("parts", "frozen_images", "frozen_texts"),
    [
        ({"prompts": BOTH}, 0, 0),
        ({"prompts": BOTH, "losses": {"feature_shift": {}}}, 0, 0),
        ({"prompts": BOTH, "losses": {"text_anchor": {}}}, 0, 1),
        ({"prompts": BOTH, "losses": {"image_anchor": {}}}, 1, 0),
        ({"prompts": BOTH, "losses": ANCHORS}, 1, 1),
        ({"prompts": BOTH, "gradient": "prograd"}, 1, 1),
        (EVERYTHING, 1, 2),
        (EVERYTHING | {"ensemble": True}, 1, 61),
        ({"prompts": BOTH | {"towers": "text"}, "gradient": "prograd", "losses": ANCHORS}, 0, 1),
        ({"prompts": BOTH | {"towers": "image"}, "ensemble": True, "losses": ANCHORS}, 1, 60),
    ],
)
def test_the_frozen_model_is_asked_once(
    parts: dict, frozen_images: int, frozen_texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images once per step and not at all where they are what they were; text once per class list."""
    model, pictures, labels = make(**parts)
    calls = {"image": 0, "text": 0}
    for name in calls:
        tower = getattr(model.backbone, name)
        forward = tower.forward

        def counted(x, prompts=(), states=False, name=name, forward=forward):
            calls[name] += not prompts
            return forward(x, prompts, states)

        monkeypatch.setattr(tower, "forward", counted)
    gradient = Gradient(Losses(model.config, model), model)
    text_only = parts["prompts"]["towers"] == "text"
    for _ in range(3):
        gradient.backward(model, pictures, labels)
    assert calls == {"image": 3 * (frozen_images + text_only), "text": frozen_texts}


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("layout", ["text", "both", "coupled"])
def test_prograd_is_the_direct_computation(layout: str, scale: float) -> None:
    towers = "both" if layout == "coupled" else layout
    prompts = BOTH | {"towers": towers, "coupled": layout == "coupled"}
    model, pictures, labels = make(prompts=prompts, gradient="prograd", losses={"text_anchor": {}})
    losses = Losses(model.config, model)
    learned = list(model.trainable().values())
    out, terms = losses(model, pictures, labels)
    gradients = torch.autograd.grad(sum(terms.values()), learned)
    zero_shot = PromptedModel(model.backbone, MethodConfig(name="clip"), NAMES)(pictures)
    out = model.encode(pictures)
    guides = torch.autograd.grad(
        -(zero_shot.softmax(-1) * out.logits.log_softmax(-1)).sum(-1).mean(), learned
    )
    Gradient(losses, model).backward(model, pictures, labels, scale)
    for parameter, gradient, guide in zip(learned, gradients, guides, strict=True):
        wanted = project_out(gradient, guide)
        torch.testing.assert_close(parameter.grad / scale, wanted, atol=1e-4, rtol=1e-3)
        parameter.grad = None
    Gradient(losses, make(prompts=prompts)[0]).backward(model, pictures, labels, scale)
    for parameter, gradient in zip(learned, gradients, strict=True):
        torch.testing.assert_close(parameter.grad / scale, gradient, atol=1e-4, rtol=1e-3)


def test_project_out_removes_what_opposes() -> None:
    guide = torch.tensor([1.0, 0.0])
    assert torch.equal(project_out(torch.tensor([-2.0, 3.0]), guide), torch.tensor([0.0, 3.0]))
    assert torch.equal(project_out(torch.tensor([2.0, 3.0]), guide), torch.tensor([2.0, 3.0]))
    assert torch.equal(project_out(torch.tensor([2.0, 3.0]), 0 * guide), torch.tensor([2.0, 3.0]))


def test_anchors_refer_to_the_training_classes() -> None:
    """Asking about other classes in between changes nothing."""
    model, pictures, labels = make(prompts=BOTH, losses=ANCHORS)
    losses = Losses(model.config, model)
    before = losses(model, pictures, labels)[1]
    model.set_classes(["goldfish"])
    model(pictures)
    model.set_classes(NAMES)
    after = losses(model, pictures, labels)[1]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_anchors_in_bf16_are_float32() -> None:
    model, pictures, labels = make(prompts=BOTH, losses=ANCHORS)
    with torch.autocast("cpu", torch.bfloat16):
        terms = Losses(model.config, model)(model, pictures, labels)[1]
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


def test_text_anchor_of_kgcoop_uses_the_template_of_the_data_set() -> None:
    recipe = load_recipe("kgcoop", "dtd")
    torch.manual_seed(0)
    model = PromptedModel(tiny("quickgelu")[1], recipe, NAMES)
    frozen = Losses(recipe, model).frozen.text_features
    prompts = [f"a photo of a {n.replace('_', ' ')}, a type of texture." for n in NAMES]
    torch.testing.assert_close(frozen, F.normalize(encode(model.backbone.text, prompts), dim=-1))
