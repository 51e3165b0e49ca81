"""What the documentation tells people to type works as written."""

import re
import shutil
from pathlib import Path

import pytest

from restore_vlm import Classifier, fit
from restore_vlm.method import load_recipe, methods

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_add_your_own_method(photos: Path, tmp_path: Path) -> None:
    (text,) = blocks("methods.md", "toml")
    assert len(text.splitlines()) <= 20
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    fit(photos, method=str(mine), shots=2, out=tmp_path / "run")
    again = Classifier.load(tmp_path / "run")
    assert again.header["method"]["losses"]["text_anchor"]["weight"] == 25
    assert set(again.predict(next(photos.rglob("*.*")))[0].classes) == {p.name for p in photos.iterdir()}


def test_combinations_from_python(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "photos")
    for text in blocks("methods.md", "python"):
        exec(text, {})


def test_combinations_from_the_command_line_are_valid() -> None:
    commands = re.findall(r"train PHOTOS --method (\w+) (--set .+)", (DOCS / "methods.md").read_text())
    assert len(commands) == 4
    for method, rest in commands:
        load_recipe(method, settings=re.findall(r"--set (\S+)", rest))


def test_every_method_is_in_the_table() -> None:
    table = (DOCS / "methods.md").read_text().partition("measured by")[2].partition("<!-- end -->")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == methods()


def test_towers_that_methods_need_open() -> None:
    """What the table of methods and towers says is what their parts are."""
    rows = re.findall(r"^\| (`.+) \| (any|open) \| (any|open) \|$", (DOCS / "backbones.md").read_text(), re.M)
    said = {name: needs for names, *needs in rows for name in re.findall(r"`(\w+)`", names)}
    assert sorted(said) == methods()
    for method, needs in said.items():
        recipe = load_recipe(method)
        wanted = ["open" if recipe.enters(tower) else "any" for tower in ("image", "text")]
        assert needs == wanted, method
