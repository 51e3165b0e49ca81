import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from restore_vlm import cli


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> tuple[int, str, str]:
    """Runs the command line in this process; returns exit code, output and error output."""
    monkeypatch.setattr(sys, "argv", ["restore-vlm", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    code = stop.value.code
    captured = capsys.readouterr()
    return int(code or 0), captured.out, captured.err


def test_train_evaluate_predict(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "run"
    command = ["train", photos, "--method", "ivlp", "--shots", 2, "--classes", "base", "--out", out,
               "--set", "training.epochs=1", "--precision", "fp32"]  # fmt: skip
    code, _, err = call(monkeypatch, capsys, *command)
    assert code == 0, err
    assert "restore-vlm evaluate" in err

    code, text, err = call(monkeypatch, capsys, "evaluate", out, "--data", photos, "--classes", "novel")
    assert code == 0, err
    assert "95 % interval" in text
    assert "calibration" in text
    stored = json.loads((out / "evaluation-novel.json").read_text())
    code, text, _ = call(
        monkeypatch, capsys, "evaluate", out, "--data", photos, "--classes", "novel", "--json"
    )
    assert json.loads(text).items() <= stored.items()

    some = sorted(photos.rglob("*.webp"))[:2]
    code, text, _ = call(monkeypatch, capsys, "predict", out, *some, "--top", 2)
    assert code == 0
    assert "Predictions" in text
    code, text, _ = call(
        monkeypatch, capsys, "predict", out, *some, "--json", "--classes", "red panda, tabby"
    )
    rows = json.loads(text)
    assert [r["photo"] for r in rows] == [str(p) for p in some for _ in range(2)]
    assert {r["class"] for r in rows} == {"red panda", "tabby"}
    code, text, _ = call(monkeypatch, capsys, "predict", out, *some, "--csv", "--top", 1)
    assert len(list(csv.DictReader(io.StringIO(text)))) == 2


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["train", "absent"], "absent"),
        (["train", ".", "--shots", "none"], "--shots 'none'"),
        (["train", ".", "--set", "prompts.depth"], "key=value"),
        (["train", ".", "--set", "prompts.dpeth=3"], "no setting 'prompts.dpeth'"),
        (["train", ".", "--set", "prompts.depth=-1"], "prompts.depth"),
        (
            ["train", ".", "--method", "vpt", "--set", "losses.feature_shift.weight=1"],
            "needs prompts in both",
        ),
        (["train", ".", "--method", "mapel"], "did you mean 'maple'"),
        (["train", ".", "--method", "absent.toml"], "no method file absent.toml"),
        (["train", ".", "--recipe", "eurosta"], "did you mean 'eurosat'"),
        (["train", ".", "--precision", "fp16", "--device", "cpu"], "fp16 needs a CUDA device"),
        (["train", ".", "--device", "tpu"], "no device 'tpu'"),
        (["evaluate", "absent", "--data", "."], "finished run"),
        (["predict", "absent", "photo.jpg"], "finished run"),
        (["predict", "absent", "photo.jpg", "--json", "--csv"], "Choose one"),
        (["methods", "restor"], "did you mean 'restore'"),
    ],
)
def test_bad_input_is_one_sentence(args: list[str], sentence: str, monkeypatch, capsys) -> None:
    code, _, err = call(monkeypatch, capsys, *args)
    assert code == 2
    assert sentence in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1
    assert "Traceback" not in err


def test_methods(monkeypatch, capsys) -> None:
    code, text, _ = call(monkeypatch, capsys, "methods")
    assert code == 0
    assert all(name in text for name in ("clip", "vpt", "ivlp", "maple", "restore"))
    code, text, _ = call(monkeypatch, capsys, "methods", "restore", "--recipe", "eurosat")
    assert "vision_ratio = 0.01" in text


def test_help_needs_nothing_heavy() -> None:
    heavy = "('torch', 'open_clip', 'numpy', 'PIL')"
    script = f"import sys, restore_vlm.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_train_says_how_it_compares(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    short = ["--method", "ivlp", "--set", "training.epochs=0", "--precision", "fp32"]
    code, text, err = call(
        monkeypatch, capsys, "train", photos, *short, "--shots", "all", "--out", tmp_path / "a"
    )
    assert code == 0, err
    assert "4 of 24 training images are held back" in " ".join(err.split())
    assert "4 validation photos, 4 classes" in text
    assert all(name in text for name in ("zero-shot", "linear probe", "ivlp", "guessing"))
    assert "too few to conclude" in text
    code, text, err = call(
        monkeypatch, capsys, "train", photos, *short, "--validation", "none", "--out", tmp_path / "b"
    )
    assert code == 0, err
    assert "validation" not in text + err
    for folder in photos.iterdir():
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:4]:
            (tmp_path / "few" / folder.name / photo.name).write_bytes(photo.read_bytes())
    code, text, err = call(monkeypatch, capsys, "train", tmp_path / "few", *short, "--out", tmp_path / "c")
    assert code == 0, err
    assert "No validation photos" in err
    for wrong in ("2", "0", "some", "nan"):
        code, _, err = call(monkeypatch, capsys, "train", photos, "--validation", wrong)
        assert code == 2
        assert "neither a share between 0 and 1 nor none" in err
