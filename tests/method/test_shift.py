"""Both measures of feature shift against their definitions."""

from collections.abc import Callable

import pytest
import torch
from restore_vlm.method.shift import (
    KNEE,
    consistency,
    embedding_shift,
    prompt_norm,
    prompt_norms,
    tempered,
)
from torch import Tensor, nn

import oracle
from backbone.tiny_models import CONFIGS, images, tiny
from restore_vlm.method import Losses, MethodConfig, PromptedModel

NAMES = ["tabby cat", "dog", "Boeing 737-800"]


@pytest.mark.parametrize("shape", [(1, 7), (2, 48), (6, 4), (16, 512)])
@pytest.mark.parametrize("scale", [1e-3, 0.02, 1, 100])
def test_prompt_norm(shape: tuple[int, int], scale: float) -> None:
    """||P^T P||_F, written out."""
    prompt = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wide = prompt.double().T @ prompt.double()
    wanted = wide.square().sum().sqrt().float()
    torch.testing.assert_close(prompt_norm(prompt), wanted, rtol=1e-5, atol=0)


def test_prompt_norm_is_float32_under_autocast() -> None:
    prompt = 0.02 * torch.randn(2, 48)
    with torch.autocast("cpu", torch.bfloat16):
        inside = prompt_norm(prompt)
    assert torch.equal(inside, prompt_norm(prompt))


def test_prompt_norm_gradient() -> None:
    """2 P P^T P / ||P^T P||_F."""
    prompt = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(prompt_norm(prompt), prompt)
    p = prompt.detach()
    torch.testing.assert_close(gradient, 2 * p @ p.T @ p / (p.T @ p).norm(), atol=1e-5, rtol=1e-5)


def test_prompt_norms_leave_layer_0_out() -> None:
    prompts = [torch.full((1, 4), float(i)) for i in range(4)]
    assert prompt_norms(prompts).tolist() == [4.0, 16.0, 36.0]
    assert len(prompt_norms(prompts[:1])) == len(prompt_norms([])) == 0


def test_tempered_is_the_identity_up_to_the_knee() -> None:
    below = torch.linspace(0, KNEE, 101, dtype=torch.float64)
    assert torch.equal(tempered(below), below)


def test_tempered_is_continuous_with_its_derivative() -> None:
    def slope(at: float) -> tuple[float, float]:
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        y = tempered(x)
        return y.item(), torch.autograd.grad(y, x)[0].item()

    for step in (1e-3, 1e-6, 1e-9):
        (low, low_slope), (high, high_slope) = slope(KNEE - step), slope(KNEE + step)
        assert abs(high - low) <= 2.001 * step
        assert abs(high_slope - low_slope) <= step
    assert slope(KNEE) == (KNEE, 1.0)
    assert slope(2 * KNEE)[1] == pytest.approx(0.5)


def test_tempered_grows_ever_slower() -> None:
    beyond = torch.linspace(KNEE, 1e4, 1000, dtype=torch.float64)
    steps = tempered(beyond).diff()
    assert (steps > 0).all()
    assert (steps.diff() < 0).all()
    assert tempered(torch.tensor([1e30])).isfinite().all()


def test_consistency() -> None:
    text, vision = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.5, 2.0])
    assert consistency(text, vision).item() == pytest.approx(0.25)
    assert consistency(vision, text).item() == pytest.approx(0.25)
    assert consistency(text, text) == 0
    # linear beyond a difference of 1, with the same slope where the two meet: 2 |d| - 1
    assert consistency(torch.tensor([5.0]), torch.tensor([1.0])).item() == pytest.approx(7.0)


def test_embedding_shift_by_hand() -> None:
    frozen = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    prompted = torch.tensor([[3.0, 5.0], [2.0, 2.0]])
    assert embedding_shift([prompted, frozen], [frozen, frozen]).tolist() == pytest.approx([0.6, 0.0])


def hooked(blocks: nn.ModuleList, run: Callable[[], object]) -> list[Tensor]:
    """What comes out of every block of open_clip's model while it runs."""
    seen: list[Tensor] = []
    handles = [b.register_forward_hook(lambda _, __, out: seen.append(out)) for b in blocks]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


def relative(prompted: list[Tensor], frozen: list[Tensor], rows: Tensor, at: Tensor) -> Tensor:
    """mean ||h_prompted - h_frozen|| / ||h_frozen|| at one token of each row, per block."""
    pairs = [(p[rows, at], f[rows, at]) for p, f in zip(prompted, frozen, strict=True)]
    return torch.stack([((p - f).norm(dim=1) / f.norm(dim=1)).mean() for p, f in pairs])


@pytest.mark.parametrize("length", [2, 6])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("kind", [k for k in CONFIGS if k != "siglip"])
def test_embedding_measure_equals_hooks_on_open_clip(kind: str, coupled: bool, length: int) -> None:
    clip, backbone = tiny(kind)
    torch.manual_seed(0)
    prompts = {"coupled": coupled, "depth": 2, "length": length}
    config = MethodConfig(name="test", prompts=prompts, losses={"feature_shift": {"measure": "embedding"}})
    model, pictures = PromptedModel(backbone, config, NAMES), images(backbone, 4)
    for parameter in model.trainable().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        text, image = model.prompt_tokens()
        out = model.encode(pictures, states=True)
        text_frozen = backbone.text(model.frozen_classes(NAMES), states=True)[1]
        ours_text = embedding_shift(out.text_states, text_frozen)
        ours_image = embedding_shift(out.image_states, backbone.image(pictures, states=True)[1])
        loss = Losses(config, model)(model, pictures, torch.zeros(4, dtype=torch.long))[1]["feature_shift"]

    # End-of-text stands elsewhere in the learned prompt than in the frozen one where the context is
    # placeholders, so each is read where it is.
    visual = clip.visual.trunk.blocks if hasattr(clip.visual, "trunk") else clip.visual.transformer.resblocks
    blocks, ids = clip.transformer.resblocks, model.classes.ids
    asked = backbone.text.tokenizer([f"a photo of a {name}." for name in NAMES])
    every = torch.arange(len(NAMES))
    prompted = hooked(blocks, lambda: oracle.plain_text(clip, ids, text))
    frozen = hooked(blocks, lambda: clip.encode_text(asked))
    prompted = [x[every, ids.argmax(-1)][:, None] for x in prompted]
    frozen = [x[every, asked.argmax(-1)][:, None] for x in frozen]
    wanted_text = relative(prompted, frozen, every, torch.zeros_like(every))
    prompted = hooked(visual, lambda: oracle.plain_image(clip, pictures, image))
    frozen = hooked(visual, lambda: clip.encode_image(pictures))
    four = torch.arange(4)
    wanted_image = relative(prompted, frozen, four, torch.zeros_like(four))

    torch.testing.assert_close(ours_text, wanted_text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_image, wanted_image, atol=1e-5, rtol=1e-5)
    layers = min(len(wanted_text), len(wanted_image))
    wanted = sum((wanted_text[i] - wanted_image[i]) ** 2 for i in range(layers))
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-4)


def test_embedding_measure_without_a_class_token() -> None:
    """SigLIP's image tower is judged by the mean of its patch tokens, prompts left out."""
    clip, backbone = tiny("siglip")
    pictures, prompts = images(backbone, 3), [torch.randn(2, 48), torch.randn(2, 48)]
    seen = hooked(clip.visual.trunk.blocks, lambda: oracle.plain_image(clip, pictures, prompts))
    with torch.no_grad():
        states = backbone.image(pictures, prompts, states=True)[1]
    torch.testing.assert_close(states, [x[:, :16].mean(1) for x in seen], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("widths", [(96, 192), (512, 768)])
def test_guarded_loss_survives_a_learning_rate_that_the_published_form_does_not(
    widths: tuple[int, int],
) -> None:
    """Prompts pushed by random gradients of unit norm at lr 0.1, as a real loss would push them."""

    def size_of_prompts(guarded: bool) -> float:
        torch.manual_seed(0)
        text = [torch.nn.Parameter(torch.randn(2, widths[0]) * 0.02) for _ in range(5)]
        coupling = torch.nn.ModuleList(torch.nn.Linear(*widths) for _ in range(5))
        optimiser = torch.optim.SGD([*text, *coupling.parameters()], lr=0.1, momentum=0.9)

        def norms() -> tuple[Tensor, Tensor]:
            return prompt_norms(text), prompt_norms([c(t) for c, t in zip(coupling, text, strict=True)])

        references = [n.detach() for n in norms()]
        for _ in range(100):
            a, b = (n / r for n, r in zip(norms(), references, strict=True))
            loss = consistency(tempered(a), tempered(b)) if guarded else (a - b).square().sum()
            push = sum((p * torch.randn_like(p)).sum() / p.numel() ** 0.5 for p in text)
            optimiser.zero_grad()
            (loss + push).backward()
            optimiser.step()
        return sum(p.norm().item() for p in text)

    assert not size_of_prompts(guarded=False) < 1e6
    assert size_of_prompts(guarded=True) < 250
