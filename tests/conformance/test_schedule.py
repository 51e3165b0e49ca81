import json
from pathlib import Path

import pytest

from restore_vlm.method import TrainingConfig
from restore_vlm.training import learning_rate

CASES = json.loads((Path(__file__).parent / "lr_schedule.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['max_epoch']} epochs")
def test_published_schedule(case: dict) -> None:
    config = TrainingConfig(
        epochs=case["max_epoch"],
        lr=case["base_lr"],
        warmup_epochs=case["warmup_epochs"],
        warmup_lr=case["warmup_lr"],
    )
    rates = [learning_rate(config, epoch) for epoch in range(config.epochs)]
    assert rates == pytest.approx(case["lr_per_epoch"], rel=1e-9)
