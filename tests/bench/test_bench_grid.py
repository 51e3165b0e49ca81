import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
import torch

from bench.bench_makers import DEMO, SHORT, copy, csv_of, plan_of, request, run, trials
from restore_vlm.bench import GridProgress, Local, Store, engines, features, inline, outlook, run_grid, store
from restore_vlm.bench.engines import DIED
from restore_vlm.classifier import fit
from restore_vlm.errors import UserError
from restore_vlm.evaluation import harmonic_mean
from restore_vlm.evaluation.protocols import get_protocol
from restore_vlm.training import read_tensors, training_images
from runtime.process_makers import ENDINGS, left_behind, start, wait_for


def results(out: Path) -> dict[Path, tuple[int, dict]]:
    """Every finished test with the time it was written."""
    return {p: (p.stat().st_mtime_ns, json.loads(p.read_text())) for p in out.glob("runs/*/tests/*.json")}


def trained(out: Path) -> int:
    return len(list(out.glob("runs/*/model/adapter.safetensors")))


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("grid") / "out"
    assert run(root, out, trials("split", "plain", seeds=[1, 2]), request()) == {}
    yield out


@pytest.mark.parametrize("name", ["split", "plain"])
def test_the_numbers_are_those_of_train_and_evaluate(root: Path, finished: Path, name: str) -> None:
    classifier = fit(
        root / name, "maple", shots=2, seed=2, classes="base", settings=(*SHORT,), precision="fp32"
    )
    (conditions, keys), *_ = Store(finished).grids()
    assert conditions["backbone"] == "tiny"
    for part in ("base", "novel"):
        (key,) = [c for c in keys if (c.method, c.source, c.part, c.seed) == ("maple", name, part, 2)]
        found = Store(finished).result(key)
        data = root / name if name == "split" else _rest(root / name, finished, key.run)
        expected = classifier.evaluate(data, part).as_json()
        assert found is not None
        assert {k: found[k] for k in expected} == json.loads(json.dumps(expected))


def _rest(folder: Path, out: Path, run: str):
    """The dataset without what was trained on."""
    from dataclasses import replace

    from restore_vlm.data import load_dataset, sample

    data = sample(load_dataset(folder), 2, 2)
    rows = [json.loads(row) for row in (out / "runs" / run / "data" / "train.jsonl").read_text().splitlines()]
    assert {r["path"] for r in rows} <= {str(i.path) for i in data.train}
    return replace(data, split=True)


def test_a_grid_tells_how_it_goes_and_prints_nothing(root: Path, tmp_path: Path, capfd) -> None:
    class Told(GridProgress):
        def __init__(self) -> None:
            self.events: list[tuple] = []

        def on_start(self, done: int, total: int) -> None:
            self.events.append(("start", done, total))

        def on_step(self, job, step: int, steps: int, note: str) -> None:
            self.events.append(("step", job.label, step, steps, note.split()[0]))

        def on_finish(self, job, error: str | None, done: int, total: int) -> None:
            self.events.append(("finish", job.label, error, done, total))

    asked, first, again = request("maple"), Told(), Told()
    plan = plan_of(root, trials("split", seeds=[1]), asked)
    assert run_grid(plan, asked, tmp_path, inline, progress=first) == {}
    step, end = ("step", "maple, split, seed 1", 2, 2, "loss"), ("finish", "maple, split, seed 1", None, 1, 1)
    assert first.events == [("start", 0, 1), step, end]
    plan = plan_of(root, trials("split", seeds=[1, 2]), asked)
    assert run_grid(plan, asked, tmp_path, inline, progress=again) == {}
    assert again.events[0] == ("start", 1, 2) and again.events[-1][-2:] == (2, 2)
    assert capfd.readouterr() == ("", "")


def test_zero_shot_is_computed_once_where_the_data_say_what_is_for_test(finished: Path) -> None:
    (_, keys), *_ = Store(finished).grids()
    runs = {(c.source, c.seed): c.run for c in keys if c.method == "clip" and c.part == "base"}
    assert runs["split", 1] == runs["split", 2]
    assert runs["plain", 1] != runs["plain", 2]


def test_again_computes_nothing(root: Path, finished: Path) -> None:
    before = results(finished)
    assert run(root, finished, trials("split", "plain", seeds=[1, 2]), request(), _refuse) == {}
    assert results(finished) == before


def _refuse(jobs, out, watch) -> None:
    raise AssertionError(f"{len(jobs)} runs")


def test_only_what_is_missing_or_changed_is_computed(root: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = results(out)
    assert run(root, out, trials("split", "plain", seeds=[1, 2, 3]), request()) == {}
    after = results(out)
    assert {p: after[p] for p in before} == before
    assert trained(out) == trained(finished) + 2
    changed = request(settings=(*SHORT, "maple:training.lr=0.1"))
    assert run(root, out, trials("split", seeds=[1]), changed) == {}
    assert trained(out) == trained(finished) + 3
    assert len(Store(out).grids()) == 2


def test_a_new_photo_changes_its_dataset_alone(root: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "root", tmp_path / "out"
    shutil.copytree(root, mine)
    asked = request("maple")
    run(mine, out, trials("split", "plain"), asked)
    folder = next((mine / "plain").iterdir())
    shutil.copy(next(folder.iterdir()), folder / "another.webp")
    plan = plan_of(mine, trials("split", "plain"), asked)
    view = outlook(plan, Store(out))
    assert (view.done, view.missing) == ({("maple", "split"): 1}, {("maple", "plain"): 1})


def test_moved_data_are_the_same_data(root: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "moved")
    run(tmp_path / "moved", finished, trials("split", "plain", seeds=[1, 2]), request(), _refuse)


def test_a_source_is_trained_once_and_new_targets_are_only_tested(root: Path, tmp_path: Path) -> None:
    cross = get_protocol("cross-dataset").trials(["split"], [1], [2], ["plain"])
    assert run(root, tmp_path, cross, request()) == {}
    adapter = next(tmp_path.glob("runs/*/model/adapter.safetensors"))
    before = adapter.stat().st_mtime_ns
    more = get_protocol("cross-dataset").trials(["split"], [1], [2], ["plain", "few"])
    assert run(root, tmp_path, more, request()) == {}
    assert run(root, tmp_path, get_protocol("few-shot").trials(["split"], [1], [2]), request(), _refuse) == {}
    assert trained(tmp_path) == 1
    assert adapter.stat().st_mtime_ns == before
    fresh = tmp_path / "fresh"
    run(root, fresh, more, request())
    assert _numbers(fresh) == _numbers(tmp_path)


def _numbers(out: Path) -> dict[tuple, float]:
    """The accuracies of the cross-dataset table."""
    store = Store(out)
    (keys,) = [keys for _, keys in store.grids() if keys[0].protocol == "cross-dataset"]
    return {c.place: (store.result(c) or {})["accuracy"] for c in keys}


def test_features_from_the_cache_give_the_same_numbers(root: Path, tmp_path: Path, monkeypatch) -> None:
    """Zero-shot, text prompts and heads read the cache; image prompts do not."""
    text = "maple:prompts={towers='text',coupled=false,depth=2}"
    asked = request("clip", "maple", "clip_adapter", "tip_adapter", settings=(*SHORT, text))
    run(root, tmp_path / "cached", trials("split"), asked)
    assert len(list((tmp_path / "cached" / "cache").glob("*.safetensors"))) == 2
    monkeypatch.setattr(features, "frozen_image_tower", lambda model: False)
    run(root, tmp_path / "not", trials("split"), asked)
    assert not (tmp_path / "not" / "cache").exists()
    keep = ("accuracy", "calibration_error", "per_class", "confusions")
    numbers = [
        {p.name: {k: r[k] for k in keep} for p, (_, r) in results(tmp_path / kind).items()}
        for kind in ("cached", "not")
    ]
    assert numbers[0] == numbers[1]


def test_a_damaged_cache_is_made_anew(root: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for file in (finished / "cache").iterdir():
        (tmp_path / "cache" / file.name).write_bytes(b"half")
    run(root, tmp_path, trials("split"), request("clip"))
    (_, keys), *_ = Store(tmp_path).grids()
    assert [Store(tmp_path).result(c)["accuracy"] for c in keys] == [
        Store(finished).result(c)["accuracy"] for c in keys
    ]


def test_a_run_that_fails_is_noted_and_the_others_go_on(root: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "root", tmp_path / "out"
    shutil.copytree(root, mine)
    photo = sorted(mine.glob("split/train/*/*"))[0]
    whole = photo.read_bytes()
    photo.write_bytes(bytes(len(whole)))
    asked, wanted = request(), trials("split", "plain", shots=None)[:1] + trials("plain")
    failed = run(mine, out, wanted, asked)
    assert list(failed) == ["maple, split, seed 1"]
    assert "cannot be used" in failed["maple, split, seed 1"]
    (error,) = out.glob("runs/*/error.json")
    assert json.loads(error.read_text())["error"] == failed["maple, split, seed 1"]
    assert trained(out) == 1
    assert "maple,base,,,0,1" in csv_of(out)
    photo.write_bytes(whole)
    assert run(mine, out, wanted, asked) == {}
    assert not list(out.glob("runs/*/error.json"))


def test_processes_give_the_same_table(root: Path, finished: Path, tmp_path: Path) -> None:
    engine = Local(workers=2, threads=1)
    assert run(root, tmp_path, trials("split", "plain", seeds=[1, 2]), request(), engine) == {}
    assert csv_of(tmp_path) == csv_of(finished)


class Killer:
    """Kills the process that first tells of a step."""

    def __init__(self) -> None:
        self.failed: dict[str, str | None] = {}

    def step(self, job, done: int, total: int, note: str) -> None:
        import multiprocessing

        if not any(self.failed.values()):
            for child in multiprocessing.active_children():
                child.kill()

    def finished(self, job, error: str | None) -> None:
        self.failed[job.label] = error


def test_a_process_that_dies_fails_its_run_alone(root: Path, tmp_path: Path) -> None:
    asked = request("maple", settings=(*SHORT, "training.epochs=20"))
    plan, watch = plan_of(root, trials("split", seeds=[1, 2]), asked), Killer()
    Local(workers=1, threads=1)(plan.jobs, tmp_path, watch)
    assert watch.failed == {"maple, split, seed 1": DIED, "maple, split, seed 2": None}


def test_killed_and_restarted_only_what_was_running_is_computed(root: Path, tmp_path: Path) -> None:
    wanted, asked = trials("split", seeds=[1, 2, 3, 4]), request(settings=(*SHORT, "training.epochs=8"))
    out = tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from bench.bench_makers import SHORT, request, run, trials\n"
        "from restore_vlm.bench import Local\n"
        "if __name__ == '__main__':\n"
        "    run(Path(sys.argv[1]), Path(sys.argv[2]), trials('split', seeds=[1, 2, 3, 4]),\n"
        "        request(settings=(*SHORT, 'training.epochs=8')), Local(workers=2, threads=1))\n"
    )
    (tmp_path / "grid.py").write_text(script)
    command = [str(tmp_path / "grid.py"), str(root), str(out), str(Path(__file__).parents[1])]
    plan = plan_of(root, wanted, asked)
    whole = len(plan.jobs)
    grid = start(*command)
    while outlook(plan, Store(out)).missing.total() >= whole - 2 and grid.poll() is None:
        time.sleep(0.05)
    assert left_behind(grid, ENDINGS["killed"]) == []
    before = results(out)
    todo = outlook(plan, Store(out)).missing.total()
    assert 0 < todo < whole
    ran: list[str] = []
    assert run_grid(plan, asked, out, inline, lambda job: ran.append(job.label)) == {}
    assert len(ran) == todo
    assert {p: r for p, r in results(out).items() if p in before} == before
    run(root, tmp_path / "whole", wanted, asked)
    assert csv_of(out) == csv_of(tmp_path / "whole")


def with_validation(root: Path, count: int) -> Path:
    """The data set ``split`` with validation photos of its own."""
    for folder in sorted((DEMO / "train").iterdir())[:4]:
        for part in ("train", "test"):
            copy(DEMO / part / folder.name, root / "split" / part / folder.name)
        target = root / "split" / "val" / folder.name
        target.mkdir(parents=True)
        for photo in sorted(folder.iterdir())[4 : 4 + count]:
            shutil.copy(photo, target)
    return root


def test_settings_are_chosen_on_the_validation_photos_of_the_dataset(root: Path, tmp_path: Path) -> None:
    mine, methods = with_validation(tmp_path / "mine", 3), ("linear_probe", "tip_adapter", "maple")
    asked = request(*methods, settings=(*SHORT, "heads.cache.views=2"))
    jobs = {job.method: job for job in plan_of(mine, trials("split"), asked).jobs}
    without = {job.method: job for job in plan_of(root, trials("split"), asked).jobs}
    more = with_validation(tmp_path / "more", 4)
    others = {job.method: job for job in plan_of(more, trials("split"), asked).jobs}
    for method in methods:
        searched = method != "maple"
        assert (jobs[method].validation is not None) is searched
        assert without[method].validation is None
        addresses = {plan[method].spec.address for plan in (jobs, without, others)}
        assert len(addresses) == (3 if searched else 1)
    validation = jobs["tip_adapter"].validation
    assert validation is not None and len(validation.items) == 2 * 2
    assert run(mine, tmp_path / "out", trials("split"), asked) == {}
    assert len(list(tmp_path.glob("out/runs/*/model/adapter.safetensors"))) == 3
    assert not list(tmp_path.glob("out/runs/*/model/validation.json"))
    for job in jobs.values():
        header = read_tensors(Store(tmp_path / "out").run(job.spec.address).model / "adapter.safetensors")[1]
        assert header.get("chosen", {}).get("photos") == (4 if job.validation else None)
        images = training_images(Store(tmp_path / "out").run(job.spec.address).model)
        trained_on = {str(item.path) for item in job.train.items}
        assert set(images) == trained_on | {
            str(i.path) for i in (job.validation.items if job.validation else ())
        }
    alone = fit(
        mine / "split",
        "tip_adapter",
        shots=2,
        classes="base",
        precision="fp32",
        settings=["heads.cache.views=2"],
    )
    stored = read_tensors(
        Store(tmp_path / "out").run(jobs["tip_adapter"].spec.address).model / "adapter.safetensors"
    )[1]
    assert stored["chosen"] == alone.header["chosen"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_worker_is_left_behind(root: Path, tmp_path: Path, ending: str) -> None:
    options = ["--methods", "maple", "--shots", "2", "--set", "training.epochs=10000"]
    command = ["few-shot", "--root", str(root), "--datasets", "split,plain", "--out", str(tmp_path / "out")]
    grid = start("-m", "restore_vlm.cli", "bench", *command, *options, "--workers", "2")
    wait_for(lambda: list(tmp_path.glob("out/runs/*/model/metrics.jsonl")), grid)
    assert left_behind(grid, ENDINGS[ending]) == []


def test_a_worker_is_not_started_after_the_grid_has_stopped(tmp_path: Path) -> None:
    worker = engines._Worker(tmp_path, 1, None)
    worker.stop()
    assert worker._connected() is None
    assert worker.process is None


def test_a_worker_that_is_just_being_started_is_stopped(tmp_path: Path, monkeypatch) -> None:
    worker, real = engines._Worker(tmp_path, 1, None), SpawnProcess.start
    stopper = threading.Thread(target=worker.stop)

    def start(process: SpawnProcess) -> None:
        stopper.start()
        real(process)

    monkeypatch.setattr(SpawnProcess, "start", start)
    worker._connected()
    stopper.join()
    worker.process.join(60)
    assert worker.process.exitcode == -signal.SIGKILL


def test_two_grids_in_one_folder(root: Path, tmp_path: Path) -> None:
    with (
        Store(tmp_path).lock(),
        pytest.raises(UserError, match=f"Process {os.getpid()} is writing to .*; wait for it or choose"),
    ):
        run(root, tmp_path, trials(), request("clip"))


def test_the_lock_of_a_dead_grid_is_no_lock(root: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from restore_vlm.bench import Store\n"
        "with Store(Path(sys.argv[1])).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert (tmp_path / ".lock").read_text()
    assert run(root, tmp_path, trials(), request("clip")) == {}


def test_a_folder_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --out"):
        run(root, tmp_path / "file", trials(), request("clip"))


def test_a_full_disk_loses_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, tmp_path, trials(seeds=[1]), request())
    before, real, count = results(tmp_path), os.fsync, [0]

    def full(descriptor: int) -> None:
        count[0] += 1
        if count[0] > 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        failed = run(root, tmp_path, trials(seeds=[1, 2]), request())
    assert list(failed) == ["maple, split, seed 2"]
    assert "No space left on device" in failed["maple, split, seed 2"]
    assert results(tmp_path) == before
    assert run(root, tmp_path, trials(seeds=[1, 2]), request()) == {}
    run(root, tmp_path / "whole", trials(seeds=[1, 2]), request())
    assert csv_of(tmp_path) == csv_of(tmp_path / "whole")


def test_time_is_estimated_from_finished_runs(root: Path, finished: Path, tmp_path: Path) -> None:
    plan = plan_of(root, trials("split", seeds=[1, 7, 8]), request())
    assert outlook(plan, Store(tmp_path)).seconds is None
    view = outlook(plan, Store(finished))
    assert view.missing == {("maple", "split"): 2}
    assert view.seconds is not None
    assert 0 < view.seconds < 600


def test_harmonic_mean_in_the_table(finished: Path) -> None:
    (_, keys), *_ = Store(finished).grids()
    mine = [c for c in keys if (c.method, c.source, c.seed) == ("clip", "split", 1)]
    two = [100 * (Store(finished).result(c) or {})["accuracy"] for c in mine]
    assert f"clip,HM,{harmonic_mean(*two)!r}" in csv_of(finished)


def test_copies_of_a_dataset_share_runs(root: Path, finished: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for folder in (root / "split" / part).iterdir():
            copy(folder, tmp_path / "same" / part / folder.name)
    run(tmp_path, finished, trials("same", seeds=[1, 2]), request(), _refuse)


def test_an_unfinished_run_of_another_place_starts_anew(root: Path, tmp_path: Path) -> None:
    asked = request("maple")
    plan = plan_of(root, trials(), asked)
    place = Store(tmp_path).run(plan.jobs[0].spec.address)
    place.model.mkdir(parents=True)
    (place.model / "config.toml").write_text('[run]\ndata = "elsewhere"\n')
    assert run(root, tmp_path, trials(), asked) == {}
    assert store.JobFolder(place.path).training_seconds() > 0


def test_published_datasets_whose_names_repeat(tmp_path: Path) -> None:
    """As in ImageNet; names may repeat in a dataset of the catalogue alone."""
    pytest.importorskip("restore_vlm.data.catalogue")
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    names = ["missile", "missile", "wok", "nail"]
    for label, folder in enumerate(sorted((DEMO / "train").iterdir())[:4]):
        for part in ("train", "test"):
            copy(DEMO / part / folder.name, tmp_path / "dtd" / "images" / part / folder.name)
            photos = sorted((tmp_path / "dtd" / "images" / part / folder.name).iterdir())
            split[part] += [[f"{part}/{folder.name}/{p.name}", label, names[label]] for p in photos]
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    few = get_protocol("few-shot").trials(["dtd"], [1], [2])
    asked = request("clip", "maple")
    assert run(tmp_path, tmp_path / "out", few, asked) == {}
    (model,) = (tmp_path / "out").glob("runs/*/model")
    plan = plan_of(tmp_path, few, asked)
    drawn = [job.train.items for job in plan.jobs if job.train]
    assert set(training_images(model)) == {str(i.path) for i in drawn[0]}


def test_a_tower_without_blocks_is_measured_at_its_features(resnet_grid: Path) -> None:
    found = [json.loads(p.read_text()) for p in resnet_grid.glob("runs/*/tests/*.json")]
    assert len(found) == 2 * 3
    for test in found:
        shift = test["shift"]
        assert shift["image"] == shift["discrepancy"] == [] and shift["total_discrepancy"] is None
        assert len(shift["text"]) == 3 and shift["image_feature"]["relative"]["mean"] == 0
    assert sum(test["shift"]["text_feature"]["relative"]["mean"] > 0 for test in found) == 2
