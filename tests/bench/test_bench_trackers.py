import sys
import types
from pathlib import Path

import pytest

from bench.bench_makers import plan_of, request, trials
from restore_vlm.bench import GridProgress, Store, inline, run_grid
from restore_vlm.bench.trackers import Tracking
from restore_vlm.errors import UserError


def tracked(root: Path, out: Path, tracker: str) -> Tracking:
    """A grid of one learned run, tracked twice."""
    asked = request("maple")
    plan = plan_of(root, trials("split"), asked)
    tracking = Tracking(tracker, Store(out))
    assert run_grid(plan, asked, out, inline, tracking) == {}
    tracking(plan.jobs[0])
    return tracking


def test_tensorboard(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an extra: pip install 'restore-vlm[trackers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked(root, tmp_path, "tensorboard")
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert folder.name.startswith("maple, split, seed 1")
    assert len(list(folder.iterdir())) == 1
    log = EventAccumulator(str(folder)).Reload()
    assert [e.step for e in log.Scalars("train/loss")] == [1, 2]
    assert {"accuracy/split_trained", "accuracy/split_other"} <= set(log.Tags()["scalars"])


def test_mlflow(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="an extra: pip install 'restore-vlm[trackers]'")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "grid"
    tracked(root, out, "mlflow")
    client = MlflowClient((out / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("grid")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["prompts.depth"] == "2"
    assert 0 <= run.data.metrics["accuracy/split_other"] <= 1
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]


def test_wandb_is_told_the_same(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that keeps what it is told: the service needs an account."""
    logged: list = []

    summary: dict = {}

    class Run:
        def __init__(self) -> None:
            self.summary = summary

        def log(self, values: dict, step: int) -> None:
            logged.append((step, values["train/loss"]))

        def finish(self) -> None:
            logged.append("finished")

    started: list = []
    fake = types.SimpleNamespace(init=lambda **options: started.append(options) or Run())
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    tracked(root, tmp_path, "wandb")
    assert [step for step, _ in logged[:-1]] == [1, 2]
    assert logged[-1] == "finished"
    assert summary.keys() == {"accuracy/split_trained", "accuracy/split_other"}
    (options,) = started
    assert options["config"]["prompts.depth"] == 2


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch, tracker: str) -> None:
    for name in ("wandb", "mlflow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UserError, match=r"is not installed; install it: pip install 'restore-vlm\[trackers\]'"
    ):
        Tracking(tracker, Store(tmp_path))
    with pytest.raises(UserError, match="Unknown tracker 'neptune'"):
        Tracking("neptune", Store(tmp_path))


def test_a_tracker_that_is_down_stops_nothing(root: Path, tmp_path: Path) -> None:
    class Warned(GridProgress):
        def __init__(self) -> None:
            self.texts: list[str] = []

        def on_warning(self, text: str) -> None:
            self.texts.append(text)

    def down(job) -> None:
        raise ConnectionError("no route")

    asked, progress = request("maple"), Warned()
    plan = plan_of(root, trials("split"), asked)
    assert run_grid(plan, asked, tmp_path, inline, down, progress) == {}
    assert progress.texts == [
        f"{plan.jobs[0].label} is done but was not tracked (ConnectionError: no route)."
    ]
