import copy

import pytest
import torch
import torch.nn.functional as F

from backbone.tiny_models import CONFIGS, TOKENIZER, build, images, tiny, wrap
from restore_vlm.backbone.blocks import Linear
from restore_vlm.method import MethodConfig, PromptedModel
from restore_vlm.method.weights import LoraConfig, LowRank

NAMES = ["cat", "fire truck", "hot air balloon"]
KINDS = list(CONFIGS)


def assemble(backbone, **weights: dict) -> PromptedModel:
    torch.manual_seed(0)
    return PromptedModel(backbone, MethodConfig(name="it", weights=weights), NAMES)


def stir(model: PromptedModel, scale: float = 0.3) -> None:
    """Moves every learned tensor away from where it starts."""
    random = torch.Generator().manual_seed(1)
    for parameter in model.trainable().values():
        parameter.data += scale * torch.randn(parameter.shape, generator=random).to(parameter)


def low_rank(model: PromptedModel) -> list[LowRank]:
    return [m for m in model.modules() if isinstance(m, LowRank)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("towers", ["text", "image", "both"])
def test_lora_is_the_merged_weights(kind: str, towers: str) -> None:
    model, backbone = tiny(kind)
    lora = assemble(backbone, lora={"towers": towers, "rank": 3, "alpha": 2.0})
    stir(lora)
    merged = wrap(copy.deepcopy(model), backbone.text.tokenizer)
    for tower in ("text", "image"):
        changed = getattr(lora.weights, tower)
        assert (changed is not None) == (towers in (tower, "both"))
        for block, plain in zip(
            changed.blocks if changed else (), getattr(merged, tower).blocks, strict=False
        ):
            update = block.qkv_linear.update
            for part, a, b in zip(plain.qkv_linear.weight.data.chunk(3), update.a, update.b, strict=True):
                part += 2 / 3 * (b @ a).detach()
    x, plain = images(backbone), assemble(merged)
    torch.testing.assert_close(lora.encode_image(x)[0], plain.encode_image(x)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lora.encode_text()[0], plain.encode_text()[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        lora.encode_image(x, states=True)[1], plain.encode_image(x, states=True)[1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [{"lora": {}}, {"finetune": {"towers": "both"}}])
def test_at_the_start_it_is_zero_shot(kind: str, weights: dict) -> None:
    backbone = tiny(kind)[1]
    model, plain, x = assemble(backbone, **weights), assemble(backbone), images(backbone)
    for mode in (model.eval(), model.train()):
        torch.testing.assert_close(mode(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [{"lora": {}}, {"finetune": {"towers": "both"}}])
def test_every_weight_learns_and_the_backbone_stays(kind: str, weights: dict) -> None:
    backbone = wrap(build(**CONFIGS[kind]), tiny(kind)[1].text.tokenizer)
    before = {n: t.clone() for n, t in backbone.state_dict().items()}
    x, plain = images(backbone, 3), assemble(backbone)
    zero_shot = plain(x)
    model = assemble(backbone, **weights).train()
    stir(model, 0.05)
    learned = model.trainable()
    assert all(p.dtype == torch.float32 for p in learned.values())
    optimiser = torch.optim.SGD(learned.values(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(x), torch.tensor([0, 1, 2])).backward()
        optimiser.step()
    unused = {n for n, p in learned.items() if p.grad is None or not p.grad.any()}
    assert not unused
    assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())
    plain.set_classes(NAMES)
    assert torch.equal(plain(x), zero_shot)
    assert not torch.allclose(model.eval()(x), zero_shot)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_frozen_weights_are_shared_and_learned_ones_saved() -> None:
    backbone = tiny("quickgelu")[1]
    frozen = {id(p) for p in backbone.parameters()}
    lora = assemble(backbone, lora={"rank": 2})
    own = [p for p in lora.weights.parameters() if id(p) not in frozen]
    assert sum(p.numel() for p in own) == sum(p.numel() for p in lora.trainable().values())
    assert len(low_rank(lora)) == backbone.image.depth + backbone.text.depth
    other = assemble(backbone, lora={"rank": 2})
    stir(lora)
    other.load_state_dict(lora.adapter_state(), strict=False)
    x = images(backbone)
    assert torch.equal(other.eval()(x), lora.eval()(x))
    tuned = assemble(backbone, finetune={"towers": "image"})
    assert {p.data_ptr() for p in tuned.trainable().values()}.isdisjoint(
        p.data_ptr() for p in backbone.parameters()
    )
    image = sum(p.numel() for p in backbone.image.parameters())
    assert sum(p.numel() for p in tuned.trainable().values()) == image


def test_dropout_is_for_training_alone() -> None:
    backbone = tiny("gelu")[1]
    model, x = assemble(backbone, lora={"dropout": 0.5}), images(backbone)
    stir(model)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    assert not model.weights.image.training
    torch.manual_seed(3)
    first = model(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x), model(x))


def test_dropout_keeps_the_mean_and_is_its_own_for_q_k_and_v() -> None:
    torch.manual_seed(0)
    layer = LowRank(LoraConfig(rank=2, dropout=0.25), torch.zeros(24, 8)).double()
    layer.b.data = torch.randn_like(layer.b)
    layer.a.data[1:], layer.b.data[1:] = layer.a.data[:1], layer.b.data[:1]
    x = torch.randn(1, 8, dtype=torch.double)
    sample = torch.stack([layer(x, slice(None)) for _ in range(20000)]).mean(0)
    torch.testing.assert_close(sample, layer.eval()(x, slice(None)), rtol=0, atol=0.02)
    q, k, v = layer.train()(x, slice(None)).chunk(3, dim=-1)
    assert not torch.equal(q, k)
    assert not torch.equal(k, v)


def test_low_rank_path_and_its_gradient() -> None:
    layer = LowRank(LoraConfig(rank=2, alpha=3.0, dropout=0), torch.zeros(12, 5)).double()
    assert layer.a.abs().max() <= 5**-0.5
    assert not layer.b.any()
    torch.manual_seed(0)
    layer.b.data = torch.randn_like(layer.b)
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    full = torch.cat([x @ (3 / 2 * b @ a).T for a, b in zip(layer.a, layer.b, strict=True)], dim=-1)
    for rows in (slice(None), slice(4), slice(4, None), slice(8, 12)):
        torch.testing.assert_close(layer(x, rows), full[..., rows])
    torch.autograd.gradcheck(lambda x, a, b: layer(x, slice(4, None)), (x, layer.a, layer.b))


def test_gains_reach_weights_that_learn() -> None:
    weight = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    bias = torch.randn(3, dtype=torch.double, requires_grad=True)
    layer = Linear(weight, bias, 1.702, 0.5)
    x = torch.randn(4, 5, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(layer(x), F.linear(x, 1.702 * weight, 0.5 * bias))
    torch.autograd.gradcheck(lambda x, w, b: layer(x), (x, weight, bias))
    with torch.no_grad():
        before = layer(x)
        weight += 1
        assert not torch.equal(layer(x), before)


def test_half_weights_are_learned_in_full() -> None:
    backbone = wrap(build(**CONFIGS["gelu"]).bfloat16(), TOKENIZER)
    for weights in ({"lora": {}}, {"finetune": {"towers": "both"}}):
        assert {p.dtype for p in assemble(backbone, **weights).trainable().values()} == {torch.float32}
