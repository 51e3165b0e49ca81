import csv
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer
from studies.restore import mini

from bench.bench_makers import DEMO
from restore_vlm import cli
from restore_vlm.bench import inline
from restore_vlm.cli.bench import bench
from restore_vlm.data import load_dataset

SCRIPTS = Path(__file__).parents[2] / "scripts"
PHOTOS = sorted((DEMO / "train").rglob("*.webp"))
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    import make_mini_benchmark

    yield make_mini_benchmark
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def source(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three zips with three photos a class: four classes of each kind, one that is to be left out."""
    folder = tmp_path_factory.mktemp("shared")
    every = [wnid for classes in mini.kinds().values() for wnid in classes]
    left_out = script.chosen_on(every)
    wnids = [w for classes in mini.kinds().values() for w in [c for c in classes if c not in left_out][:4]]
    fill(folder / "tiny-imagenet-val.zip", [f"tiny-imagenet/val/{w}" for w in [*wnids, min(left_out)]])
    fill(folder / "pacs.zip", [f"pacs/{d}/{c}" for d in DOMAINS for c in ("dog", "guitar")])
    names = ("anchor", "ant", "barrel", "bass")
    fill(folder / "caltech-101.zip", [f"caltech-101/101_ObjectCategories/{c}" for c in names])
    rows = [[f"{c}/{i}.webp", label, c] for label, c in enumerate(names) for i in range(3)]
    split = {"train": rows[::3] + rows[1::3], "val": rows[::3], "test": rows[2::3]}
    with zipfile.ZipFile(folder / "caltech-101.zip", "a") as archive:
        archive.writestr("caltech-101/split_zhou_Caltech101.json", json.dumps(split))
    return folder


def fill(path: Path, folders: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i, folder in enumerate(folders):
            for j in range(3):
                archive.write(PHOTOS[(3 * i + j) % len(PHOTOS)], f"{folder}/{j}.webp")


@pytest.fixture(scope="module")
def root(script: ModuleType, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(script, source, tmp_path_factory.mktemp("mini") / "root")


def make(script: ModuleType, source: Path, root: Path) -> Path:
    script.make_caltech(source, root)
    script.make_pacs(source, root, (2, 1))
    script.make_kinds(source, root, (2, 1))
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_every_class_has_one_kind() -> None:
    names = [name.lower() for classes in mini.kinds().values() for name in classes.values()]
    assert len(names) == len(set(names)) == 200
    assert len({wnid for classes in mini.kinds().values() for wnid in classes}) == 200


def test_no_class_that_recipes_were_chosen_on(script: ModuleType, root: Path) -> None:
    every = {wnid: name for classes in mini.kinds().values() for wnid, name in classes.items()}
    left_out = script.chosen_on(list(every))
    assert len(left_out) == 40
    assert not {every[w].lower().replace(" ", "_") for w in left_out} & {p.name for p in root.rglob("*")}


def test_the_stages_name_datasets_that_the_script_makes(root: Path) -> None:
    made = {p.relative_to(root).as_posix() for p in [*root.iterdir(), *(root / "pacs").iterdir()]}
    for stage in mini.stages(mini.request(["clip", "restore"]), [1]):
        for trial in stage.trials:
            assert {trial.dataset, *(t.dataset for t in trial.tests)} <= made | {"caltech101"}


def test_datasets_are_the_same_bytes_and_shifted_copies_the_same_photos(
    script: ModuleType, source: Path, root: Path, tmp_path: Path
) -> None:
    again = contents(make(script, source, tmp_path / "again"))
    assert again == contents(root)
    for sensor in script.SHIFTS:
        for path in [p for p in again if p.startswith("food/")]:
            assert again[path.replace("food/", f"food-{sensor}/")] != again[path]
    data = load_dataset(root / "food-fog")
    assert (len(data.classes), len(data.train), len(data.test)) == (4, 8, 4)
    assert not {i.path.name for i in data.train if i.label == 0} & {
        i.path.name for i in data.test if i.label == 0
    }


def test_what_was_half_made_is_made_anew(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyError), script.made(tmp_path / "food") as part:
        (part / "half").touch()
        raise KeyError
    assert not (tmp_path / "food").exists()
    with script.made(tmp_path / "food") as part:
        (part / "whole").touch()
    with script.made(tmp_path / "food") as part:
        assert part is None
    assert [p.name for p in tmp_path.rglob("*")] == ["food", "whole"]


def test_fog_takes_contrast_and_more_of_it_in_the_distance(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    scene = (np.indices((64, 64)).sum(0) // 8 % 2)[..., None].repeat(3, 2).astype(float)
    spread = np.mean([script.fog(scene, rng).std((1, 2)) for _ in range(30)], axis=0)
    assert spread[:16].mean() < spread[-16:].mean() < scene.std()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs ``restore-vlm bench mini`` in this process; returns exit code, output and error output."""
    monkeypatch.setattr("restore_vlm.bench.Local", lambda workers, threads: inline)
    app = typer.Typer()
    app.add_typer(bench, name="bench")
    monkeypatch.setattr(cli, "app", app)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["restore-vlm", "bench", "mini", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        text, err = (re.sub(r"\s+", " ", t) for t in capsys.readouterr())
        return int(stop.value.code or 0), text, err

    return run


def test_dry_run_counts_the_whole_benchmark(root: Path, tmp_path: Path, call) -> None:
    code, text, err = call("--root", root, "--out", tmp_path / "out", "--seeds", 1, "--dry-run")
    assert code == 0, err
    assert "base-to-novel, food-fog" in text
    assert int(re.findall(r"│ all │ 0 │ (\d+) │ \? │", text)[0]) > 150
    assert not (tmp_path / "out").exists()


def test_from_datasets_to_documented_tables(root: Path, tmp_path: Path, call) -> None:
    command = [
        "--root", root, "--out", tmp_path / "out", "--methods", "clip,linear_probe", "--seeds", "1,2",
        "--protocols", "cross-dataset", "--docs", tmp_path / "docs",
    ]  # fmt: skip
    code, text, err = call(*command)
    assert code == 0, err
    assert "trained on clothing-thermal" in text
    page = (tmp_path / "docs" / "mini-cross-dataset.md").read_text()
    assert "restore-vlm bench mini --root ROOT --out OUT --methods clip,linear_probe --seeds 1,2" in page
    assert ": 7 runs, " in page  # 5 sets zero-shot for both seeds, one training for each
    assert str(tmp_path) not in page
    table = (tmp_path / "docs" / "mini-cross-dataset.csv").read_text()
    assert table == (tmp_path / "out" / "tables" / "cross-dataset.csv").read_text()
    rows = [r for r in csv.DictReader(table.splitlines()) if r["method"] == "clip"]
    *sets, average = (float(r["mean"]) for r in rows)
    assert average == pytest.approx(sum(sets[1:]) / 4)
    before = contents(tmp_path / "out" / "runs")
    assert call(*command)[0] == 0
    assert contents(tmp_path / "out" / "runs") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--protocols", "base-to-nov"], "did you mean 'base-to-novel'"),
        (["--methods", "mapel"], "did you mean 'maple'"),
        (["--seeds", "0"], "not numbers from 1"),
        (["--methods", ","], "names nothing"),
    ],
)
def test_bad_input_in_a_sentence(root: Path, tmp_path: Path, call, options: list[str], said: str) -> None:
    code, _, err = call("--root", root, "--out", tmp_path, *options)
    assert code == 2
    assert said in err


def test_a_root_without_the_datasets(tmp_path: Path, call) -> None:
    code, _, err = call("--root", tmp_path, "--out", tmp_path)
    assert code == 2
    assert "food-fog" in err
