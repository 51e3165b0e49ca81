import pytest
import torch

from backbone.tiny_models import tiny
from restore_vlm.method import load_recipe, methods
from restore_vlm.training import Trainer
from restore_vlm.training.run import build_model
from training.made_up import MadeUp

STEPS = 200
NAMES = ["cat", "fire truck", "tea"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", methods())
def test_200_steps_stay_finite(method: str, precision: str) -> None:
    """At the published learning rates; fp16 on CPU, which users are refused, stands in for CUDA's."""
    settings = [f"training.iterations={STEPS}", "training.batch=2"]
    recipe = load_recipe(method, settings=settings)
    if recipe.prompts:
        recipe.prompts.depth = min(3, recipe.prompts.depth)
    model, images = build_model(recipe, tiny("gelu")[1], NAMES, 1), MadeUp(12, len(NAMES))
    for head in model.heads:
        if head.views:
            features = model.backbone.image(images.pixels)[0].detach()
            head.fit(features, torch.tensor(images.labels))
    if not recipe.trainable:
        assert not model.trainable()
        return
    trainer, losses = Trainer(model, images, recipe.training, 1, precision), []
    before = {n: p.detach().clone() for n, p in trainer.learned.items()}
    trainer.run(lambda done, total, metrics: losses.append(metrics["loss"]))
    assert len(losses) == STEPS
    assert all(loss - loss == 0 for loss in losses)
    for name, parameter in trainer.learned.items():
        assert parameter.dtype == torch.float32, name
        assert parameter.isfinite().all(), name
    assert any(not torch.equal(p, before[n]) for n, p in trainer.learned.items())
    states = [t for s in trainer.optimiser.state.values() for t in s.values() if torch.is_tensor(t)]
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in states)
    assert trainer.scaler.is_enabled() == (precision == "fp16")
