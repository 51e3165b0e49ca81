import re
import shutil
import sys
from pathlib import Path

import pytest
import typer

from bench.bench_makers import SHORT
from restore_vlm import cli
from restore_vlm.bench import inline
from restore_vlm.cli.bench import bench
from restore_vlm.evaluation.protocols import PROTOCOLS


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs ``restore-vlm bench`` in this process; returns exit code, output and error output."""
    monkeypatch.setattr("restore_vlm.bench.Local", lambda workers, threads: inline)
    app = typer.Typer()
    app.add_typer(bench, name="bench")
    monkeypatch.setattr(cli, "app", app)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["restore-vlm", "bench", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        text, err = (re.sub(r"\s+", " ", t) for t in capsys.readouterr())
        return int(stop.value.code or 0), text, err

    return run


SETTINGS = [arg for setting in SHORT for arg in ("--set", setting)]


def test_from_plan_to_comparison(root: Path, tmp_path: Path, call) -> None:
    command = [
        "base-to-novel", "--root", root, "--datasets", "split,plain", "--methods", "clip,maple",
        "--seeds", "1", "--shots", 2, "--out", tmp_path / "out", "--precision", "fp32", *SETTINGS,
    ]  # fmt: skip
    code, text, _ = call(*command, "--dry-run")
    assert code == 0
    assert "│ all │ │ 0 │ 6 │" in text
    assert "unknown until" in text
    assert not (tmp_path / "out").exists()
    code, text, err = call(*command, "--format", "markdown")
    assert code == 0, err
    assert "average over 2 datasets" in text
    code, again, _ = call("table", tmp_path / "out", "--format", "markdown")
    assert (code, again) == (0, text)
    code, text, _ = call(*command, "--dry-run")
    assert "│ all │ │ 6 │ 0 │" in text
    code, text, _ = call("compare", tmp_path / "out", "maple", "clip")
    assert code == 0
    assert "95 % interval" in text


def test_domains_in_a_folder(root: Path, tmp_path: Path, call) -> None:
    """PACS' layout: a root of domains with the same classes."""
    for domain in ("photo", "sketch", "cartoon"):
        shutil.copytree(root / "plain", tmp_path / "pacs" / domain)
    code, text, err = call(
        "domain-generalisation", "--root", tmp_path / "pacs", "--source", "photo,sketch", "--methods", "clip",
        "--seeds", 1, "--shots", 2, "--out", tmp_path / "out", "--format", "csv",
    )  # fmt: skip
    assert code == 0, err
    assert '"domain-generalisation, trained on photo, 2 shots",clip,cartoon' in text
    assert '"domain-generalisation, trained on sketch, 2 shots",clip,photo' in text


def test_cross_dataset_and_few_shot(root: Path, tmp_path: Path, call) -> None:
    rest = ("--root", root, "--methods", "clip", "--seeds", 1, "--out", tmp_path)
    code, text, err = call("cross-dataset", "--source", "split", "--shots", 2, "--format", "markdown", *rest)
    assert code == 0, err
    assert "| method | split | few | plain | average of targets |" in text
    code, text, _ = call("few-shot", "--datasets", "plain", "--shots", "1,2", "--format", "markdown", *rest)
    assert (code, "| method | 1 shot | 2 shots |" in text) == (0, True)


def test_every_protocol_has_a_command_with_the_same_options(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, text, _ = call("--help")
    assert code == 0
    assert re.findall(r"│ ([a-z][a-z-]*) ", text) == [*PROTOCOLS, "table", "compare"]
    same = None
    for name, protocol in PROTOCOLS.items():
        code, text, _ = call(name, "--help")
        options = re.findall(r"│ (\*)? *--([a-z-]+)", text)
        own = ("source", "targets") if protocol.transfer else ("datasets",)
        assert [option for star, option in options if star] == ["root", own[0], "out"]
        assert set(own) < {option for _, option in options}
        rest = [option for _, option in options if option not in own]
        assert (code, rest) == (0, same or rest)
        same = rest
        assert f"[default: {','.join(map(str, protocol.shots))}]" in text


def test_a_failed_run_ends_with_1(root: Path, tmp_path: Path, call) -> None:
    shutil.copytree(root / "split", tmp_path / "root" / "split")
    sorted(tmp_path.glob("root/split/train/*/*"))[0].write_bytes(b"")
    code, text, err = call(
        "base-to-novel", "--root", tmp_path / "root", "--datasets", "split", "--methods", "maple",
        "--seeds", 1, "--shots", "all", "--out", tmp_path / "out", *SETTINGS,
    )  # fmt: skip
    assert code == 1
    assert "1 of 1 runs failed; the same command tries them again" in err
    assert "seed 1 failed: " in err
    assert "failed: maple, split" in text


GOOD = {
    "--root": "ROOT", "--datasets": "split", "--methods": "clip,maple", "--seeds": "1", "--out": "OUT",
    "--shots": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--root": "absent"}, "There is no folder absent; give the folder"),
        ({"--datasets": "splitt"}, "Unknown dataset under .* 'splitt'; did you mean 'split'"),
        ({"--datasets": "split,split"}, "The dataset 'split' is given twice"),
        ({"--datasets": ","}, "--datasets names nothing"),
        ({"--datasets": "few"}, "few has too few classes for base ones; it needs at least 4"),
        ({"--datasets": "half"}, "images of .* are absent|is absent"),
        ({"--methods": "mapel"}, "Unknown method 'mapel'; did you mean 'maple'"),
        ({"--methods": "maple,maple"}, "Two methods have the same name"),
        ({"--seeds": "0"}, "--seeds '0' are not numbers from 1"),
        ({"--seeds": "1,x"}, "--seeds '1,x' are not numbers from 1"),
        ({"--shots": "0"}, "--shots '0' is neither a number from 1 nor all"),
        ({"--shots": "all", "--datasets": "plain"}, "nothing to test on in plain"),
        ({"--recipe": "tinny"}, "Unknown recipe of maple 'tinny'; did you mean 'tiny'"),
        ({"--set": "maple:prompts.dpeth=2"}, "there is no setting 'prompts.dpeth'"),
        ({"--set": "surgery.text_ratio=2"}, "about a part that no method of the grid has"),
        ({"--set": "vpt:prompts.depth=2"}, "for 'vpt', which is not among --methods"),
        ({"--backbone": "ViT-B-61:openai", "--workers": "1"}, "ViT-B-61"),
        ({"--device": "tpu"}, "There is no device 'tpu'"),
        ({"--address": "127.0.0.1:1"}, "--address is for --engine ray"),
        ({"--out": "FILE"}, "choose another --out"),
    ],
)
def test_bad_input_is_one_sentence(root: Path, tmp_path: Path, call, change: dict, sentence: str) -> None:
    places = {"ROOT": root, "OUT": tmp_path / "out", "FILE": tmp_path / "file"}
    (tmp_path / "file").touch()
    if change.get("--datasets") == "half":
        places["ROOT"] = tmp_path
        (tmp_path / "half").mkdir()
        (tmp_path / "half" / "split_zhou_Half.json").write_text(
            '{"train": [["a.jpg", 0, "x"], ["b.jpg", 1, "y"]], "val": [], "test": [["a.jpg", 0, "x"]]}'
        )
    options = [str(places.get(v, v)) for pair in (GOOD | change).items() for v in pair]
    code, _, err = call("base-to-novel", *options)
    assert code == 2, err
    assert re.search(sentence, err), err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["table", "absent"], "There is no grid in .*absent"),
        (["compare", "absent", "maple", "clip"], "There is no grid in .*absent"),
        (["few-shot", "--root", "ROOT", "--datasets", "split", "--out", "x", "--shots", "0"], "--shots '0'"),
        (
            ["cross-dataset", "--root", "ROOT", "--source", "split", "--targets", "split", "--out", "x"],
            "both source and target",
        ),
    ],
)
def test_other_bad_input(root: Path, call, args: list, sentence: str) -> None:
    code, _, err = call(*(str(root) if a == "ROOT" else a for a in args))
    assert (code, bool(re.search(sentence, err))) == (2, True), err
