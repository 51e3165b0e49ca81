"""The fast towers give the plain path's numbers: features, gradients and per-block states."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import oracle
from backbone.tiny_models import CONFIGS, build, images, tiny, wrap
from restore_vlm.backbone.class_prompts import Context
from restore_vlm.method import MethodConfig, PromptedModel

NAMES = ["tabby cat", "dog", "Boeing 737-800", "forget-me-not"]
CLASS_LISTS = {
    "one": ["cat"],
    "one_long": ["a very long name of one single class of things"],
    "two": ["tabby cat", "Boeing 737-800"],
    "forty": [f"{' '.join(['bird'] * (i % 5))} number {i}" for i in range(40)],
    "punctuation": ["Boeing 737-800", "cup_cakes", "forget-me-not", "x.", "St. Bernard's dog", "."],
    "repeats_the_template": ["a photo of a photo", "photo", "a photo of a", "a photo", "of"],
    "prefixes_of_each_other": ["cat", "cat cat", "cat cat cat", "cat. cat"],
    "duplicates": ["cat", "cat", "dog"],
    "all_the_same": ["cat", "cat"],
}
LAYOUTS = {
    "text": {"towers": "text"},
    "image": {"towers": "image"},
    "both": {"towers": "both"},
    "coupled": {"towers": "both", "coupled": True},
}
ALL = 99


def prompted(kind: str, names: list[str], dtype: torch.dtype = torch.float32, **prompts) -> PromptedModel:
    """A model whose learned tensors are large enough to matter."""
    torch.manual_seed(0)
    config = MethodConfig(name="test", prompts=prompts or None)
    model = PromptedModel(tiny(kind)[1], config, names)
    for parameter in model.trainable().values():
        parameter.data += 0.2 * torch.randn_like(parameter)
    if dtype != torch.float32:
        model.prompts.to(dtype)
        model.backbone = tiny(kind, dtype)[1]
    return model


def fast(model: PromptedModel, pictures: Tensor) -> tuple[Tensor, Tensor]:
    text, image = model.prompt_tokens()
    return model.backbone.text(model.classes, text)[0], model.backbone.image(pictures, image)[0]


def plain(clip: nn.Module, model: PromptedModel, pictures: Tensor) -> tuple[Tensor, Tensor]:
    text, image = model.prompt_tokens()
    start = model.backbone.text.start
    return oracle.plain_text(clip, model.classes.ids, text, start), oracle.plain_image(clip, pictures, image)


def with_gradients(features: tuple[Tensor, Tensor], model: PromptedModel) -> tuple[list[Tensor], dict]:
    """Unit features of both towers, and the gradient of a random function of them."""
    unit = [F.normalize(f, dim=-1) for f in features]
    random = torch.Generator().manual_seed(1)
    loss = sum((f * torch.randn(f.shape, generator=random, dtype=torch.float64)).sum() for f in unit)
    named = model.trainable()
    gradients = torch.autograd.grad(loss, list(named.values())) if named else []
    return [f.detach() for f in unit], dict(zip(named, gradients, strict=True))


def assert_equal(
    kind: str, names: list[str], dtype: torch.dtype, atol: float, rtol: float, **prompts
) -> None:
    clip, backbone = tiny(kind, dtype)
    model, pictures = prompted(kind, names, dtype, **prompts), images(backbone, dtype=dtype)
    ours, our_gradients = with_gradients(fast(model, pictures), model)
    theirs, their_gradients = with_gradients(plain(clip, model, pictures), model)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)
    for name, wanted in their_gradients.items():
        assert wanted.norm() > 0, name
        assert (our_gradients[name] - wanted).norm() <= rtol * wanted.norm(), name


@pytest.mark.parametrize("length", [1, 2, 4, 6])
@pytest.mark.parametrize("depth", [1, 2, ALL])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_features_and_gradients(kind: str, layout: str, depth: int, length: int) -> None:
    options = LAYOUTS[layout] | {"depth": depth, "length": length}
    assert_equal(kind, NAMES, torch.float32, 1e-5, 1e-5, **options)
    assert_equal(kind, NAMES, torch.float64, 1e-12, 1e-9, **options)


@pytest.mark.parametrize("length", [2, 6])
@pytest.mark.parametrize("names", CLASS_LISTS)
@pytest.mark.parametrize("kind", ["quickgelu", "siglip"])
def test_class_names(kind: str, names: str, length: int) -> None:
    options = {"towers": "text", "depth": 2, "length": length}
    assert_equal(kind, CLASS_LISTS[names], torch.float32, 1e-5, 1e-5, **options)
    assert_equal(kind, CLASS_LISTS[names], torch.float64, 1e-12, 1e-9, **options)


@pytest.mark.parametrize("length", [2, 16])
def test_very_long_names(length: int) -> None:
    names = ["cat", " ".join(["bird"] * 50), "dog", " ".join(["goldfish"] * 45)]
    options = {"towers": "both", "depth": 2, "length": length, "init": "a photo of a"}
    assert_equal("quickgelu", names, torch.float32, 1e-5, 1e-5, **options)
    assert_equal("quickgelu", names, torch.float64, 1e-12, 1e-9, **options)


@pytest.mark.parametrize("names", CLASS_LISTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_without_prompts_it_is_open_clip(kind: str, names: str) -> None:
    clip, backbone = tiny(kind)
    model, pictures = prompted(kind, CLASS_LISTS[names]), images(backbone)
    asked = [f"a photo of a {name.replace('_', ' ')}." for name in CLASS_LISTS[names]]
    ids = backbone.text.tokenizer(asked)
    assert torch.equal(model.classes.ids, ids)
    with torch.no_grad():
        wanted = [clip.encode_text(ids, normalize=True), clip.encode_image(pictures, normalize=True)]
        for path in (fast(model, pictures), plain(clip, model, pictures)):
            for features, open_clips in zip(path, wanted, strict=True):
                torch.testing.assert_close(F.normalize(features, dim=-1), open_clips, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [2, 6])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
@pytest.mark.parametrize("kind", CONFIGS)
def test_states(kind: str, layout: str | None, length: int) -> None:
    clip, backbone = tiny(kind)
    options = LAYOUTS[layout] | {"depth": 2, "length": length} if layout else {}
    model, pictures = prompted(kind, NAMES, **options), images(backbone)
    text, image = model.prompt_tokens()
    with torch.no_grad():
        features, ours = backbone.text(model.classes, text, states=True)
        theirs = oracle.plain_states_text(clip, model.classes.ids, text, backbone.text.start)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert torch.equal(features, backbone.text(model.classes, text)[0])
        features, ours = backbone.image(pictures, image, states=True)
        torch.testing.assert_close(
            ours, oracle.plain_states_image(clip, pictures, image), atol=1e-5, rtol=1e-5
        )
        assert torch.equal(features, backbone.image(pictures, image)[0])


@pytest.mark.parametrize("kind", ["gelu", "siglip"])
def test_state_gradients(kind: str) -> None:
    """The embedding measure of L_fs is differentiated through the states."""
    clip, backbone = tiny(kind, torch.float64)
    model = prompted(kind, NAMES, torch.float64, towers="both", coupled=True, depth=ALL)
    pictures, named = images(backbone, dtype=torch.float64), model.trainable()

    def ours(text: list[Tensor], image: list[Tensor]) -> list[Tensor]:
        return backbone.text(model.classes, text, True)[1] + backbone.image(pictures, image, True)[1]

    def theirs(text: list[Tensor], image: list[Tensor]) -> list[Tensor]:
        seen = oracle.plain_states_text(clip, model.classes.ids, text)
        return seen + oracle.plain_states_image(clip, pictures, image)

    def gradients(states) -> list[Tensor]:
        loss = sum(s.square().sum() for s in states(*model.prompt_tokens()))
        return torch.autograd.grad(loss, list(named.values()))

    for a, b in zip(gradients(ours), gradients(theirs), strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()


@pytest.mark.parametrize("surgery", [None, {"text_ratio": 0.3, "vision_ratio": 0.2}])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_of_the_whole_model(kind: str, layout: str, surgery: dict | None) -> None:
    clip, backbone = tiny(kind)
    torch.manual_seed(0)
    config = MethodConfig(name="test", prompts=LAYOUTS[layout], surgery=surgery)
    model, pictures = PromptedModel(backbone, config, NAMES), images(backbone, 3)
    scale = clip.logit_scale.exp().item()
    named = model.trainable()
    ours, theirs = model(pictures), oracle.plain_logits(clip, model, pictures)
    torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-5, rtol=0)
    labels = torch.tensor([0, 1, 3])
    both = [
        torch.autograd.grad(F.cross_entropy(logits, labels), list(named.values()))
        for logits in (ours, theirs)
    ]
    for name, a, b in zip(named, *both, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm(), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_autocast(kind: str) -> None:
    """Close to float32 and to the plain path under the same autocast, with float32 gradients."""
    clip, backbone = tiny(kind)
    model = prompted(kind, NAMES, towers="both", coupled=True, length=2, depth=2)
    pictures = images(backbone)
    exact = [F.normalize(f, dim=-1) for f in fast(model, pictures)]
    with torch.autocast("cpu", torch.bfloat16):
        ours = [F.normalize(f.float(), dim=-1) for f in fast(model, pictures)]
        theirs = [F.normalize(f.float(), dim=-1) for f in plain(clip, model, pictures)]
        logits = oracle.plain_logits(clip, model, pictures)
    assert logits.isfinite().all()
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert F.cosine_similarity(a, b).min() > 0.999
        assert F.cosine_similarity(a, c).min() > 0.999
    sum(f[0, 0] for f in ours).backward()
    assert all(p.grad.dtype == torch.float32 for p in model.trainable().values())


@pytest.mark.parametrize("kind", ["gelu", "timm", "siglip"])
def test_training_after_inference(kind: str) -> None:
    """What the towers keep from an evaluation can be trained through."""
    clip = build(**CONFIGS[kind])
    model = PromptedModel(
        wrap(clip, tiny(kind)[1].text.tokenizer), MethodConfig(name="test", prompts={}), NAMES
    )
    pictures = images(model.backbone)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        evaluated = model(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(pictures)
    torch.testing.assert_close(logits, evaluated, atol=1e-2, rtol=0)
    logits.sum().backward()


def test_image_prompts_may_depend_on_the_image() -> None:
    _, backbone = tiny("gelu")
    pictures, per_image = images(backbone), torch.randn(2, 3, backbone.image.width)
    together = backbone.image(pictures, [per_image])[0]
    for i in range(2):
        alone = backbone.image(pictures[i : i + 1], [per_image[i]])[0]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_only_class_specific_tokens_are_computed() -> None:
    _, backbone = tiny("gelu")
    classes = backbone.text.tokenize_names(["cat", "dog", "tabby cat"], Context(2, "a photo of a"))
    assert len(classes) == 3
    assert classes.prefix.tolist() == backbone.text.tokenizer(["a photo of a"])[0, :5].tolist()
    assert classes.groups == [(2, 3), (1, 4)]
    assert len(classes.suffix) == 2 * 3 + 4


def test_bidirectional_text_takes_the_plain_path() -> None:
    assert tiny("gelu")[1].text.packed
    assert not tiny("siglip")[1].text.packed


WORDS = ["a", "photo", "of", "cat", "forget-me-not", "737-800", "x.", "electroencephalograph"]
class_name = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(names=st.lists(class_name, min_size=1, max_size=12), length=st.sampled_from([0, 1, 2, 4, 6]))
def test_any_list_of_names(names: list[str], length: int) -> None:
    clip, _ = tiny("quickgelu")
    options = {"towers": "text", "depth": 2, "length": length} if length else {}
    model = prompted("quickgelu", names, **options)
    text = model.prompt_tokens()[0]
    with torch.no_grad():
        ours = F.normalize(model.backbone.text(model.classes, text)[0], dim=-1)
        theirs = F.normalize(oracle.plain_text(clip, model.classes.ids, text), dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
