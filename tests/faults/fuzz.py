"""What people write by hand, made up and mangled: no exception but UserError."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from faults.outcomes import READ, SENTENCE, TRACEBACK, Tally
from restore_vlm.bench.plan import Request, _check_settings
from restore_vlm.data import load_dataset, select_classes
from restore_vlm.data.dataset import Dataset
from restore_vlm.data.names import read_names
from restore_vlm.errors import UserError
from restore_vlm.method import Recipe, load_recipe, methods
from restore_vlm.method.presets import chooses_depth, recipes

PHOTO = next(p for p in sorted(Path(str(files("restore_vlm") / "assets" / "demo")).rglob("*")) if p.is_file())
WORDS = (
    "none", "text", "both", "true", "inf", "nan", "-1", "0", "1e400", "[", "]", '"', "'''", "{}", "a = 1",
    "\n", "\0", "\x85", "'", "=", "{ a = ", "0x1F", "1979-05-27T07:32:00Z", "[[", "#", "\\u00e4", "ä",
    "\ud800", "9" * 5000, "[" * 3000, "\u2028",
)  # fmt: skip
word = st.sampled_from(WORDS)
text = st.lists(st.one_of(word, st.text(max_size=6)), max_size=4).map("".join)
scalars = st.one_of(
    st.booleans(), st.integers(), st.floats(), text, st.sampled_from(("none", "text", 0, -1, 1e308))
)
anything = st.recursive(
    st.one_of(st.none(), scalars),
    lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(text, v, max_size=3)),
)


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{name}.")


KEYS = sorted(keys())
key = st.one_of(
    st.sampled_from(KEYS), st.lists(st.one_of(st.sampled_from(KEYS), text), max_size=3).map(".".join)
)
value = st.one_of(text, anything.map(lambda v: json.dumps(v)), scalars.map(str))
setting = st.one_of(st.tuples(key, value).map("=".join), text)
method = st.sampled_from(methods())


@st.composite
def mangled(draw: Callable, whole: str) -> str:
    """A text of which pieces are cut out, doubled or replaced."""
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(whole)))
        end = min(len(whole), start + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.just(""), word, st.text(max_size=3), st.just(whole[start:end] * 2)))
        whole = whole[:start] + piece + whole[end:]
    return whole


PRESETS = {
    name: files("restore_vlm.method.presets").joinpath(f"{name}.toml").read_text() for name in methods()
}


def _encoded(content: str, encoding: str) -> bytes:
    return content.encode(encoding, errors="replace")


encoding = st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))


counts: Counter[str] = Counter()
"""Outcomes of the calls made so far."""


def _tolerated(action: Callable[[], Any]) -> None:
    try:
        action()
    except UserError as error:
        assert str(error).strip(), "no sentence"
        counts[SENTENCE] += 1
    else:
        counts[READ] += 1


@given(method=method, chosen=st.lists(setting, min_size=1, max_size=3))
def settings_case(method: str, chosen: list[str]) -> None:
    """``--set`` of ``train`` and of ``bench``."""
    _tolerated(lambda: load_recipe(method, "default", chosen))
    _tolerated(lambda: chooses_depth(method, "default", chosen))
    _tolerated(lambda: _check_settings(Request((method, "clip"), settings=tuple(chosen))))


@given(
    content=st.one_of(
        method.flatmap(lambda name: mangled(PRESETS[name])),
        st.lists(setting, max_size=6).map("\n".join),
        st.dictionaries(st.sampled_from([*Recipe.model_fields, "base", "recipes"]), anything, max_size=4),
    ),
    encoding=encoding,
    recipe=st.sampled_from(("default", "tiny", "few_shot")),
)
def recipe_case(content: str | dict, encoding: str, recipe: str) -> None:
    """A method's TOML file."""
    if isinstance(content, dict):
        try:
            content = tomli_w.dumps(content)
        except (TypeError, ValueError):
            assume(False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.toml"
        path.write_bytes(_encoded(str(content), encoding))
        _tolerated(lambda: recipes(str(path)))
        _tolerated(lambda: load_recipe(str(path), recipe))
        _tolerated(lambda: chooses_depth(str(path), recipe))


cell = st.one_of(
    st.sampled_from(("a.webp", "b.webp", "../a.webp", "cat", "dog", "train", "test", "val", "")), text
)
rows = st.lists(st.lists(cell, min_size=1, max_size=4), max_size=5)


def _csv(table: list[list[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows(table)
    return stream.getvalue()


row = st.fixed_dictionaries({"path": cell, "class": cell}, optional={"split": cell, "more": anything})
manifest = st.one_of(
    rows.map(lambda r: (".csv", _csv([["path", "class", "split"], *r]))),
    st.lists(row, max_size=5).map(lambda r: (".jsonl", "\n".join(map(json.dumps, r)))),
    st.lists(anything, max_size=4).map(lambda r: (".ndjson", "\n".join(map(json.dumps, r)))),
    mangled("path,class,split\na.webp,cat,train\nb.webp,dog,train\n").map(lambda t: (".csv", t)),
    mangled('{"path": "a.webp", "class": "a"}\n{"path": "b.webp"}').map(lambda t: (".jsonl", t)),
)  # fmt: skip


@given(manifest=manifest, encoding=encoding)
def manifest_case(manifest: tuple[str, str], encoding: str) -> None:
    """CSV and JSON-lines manifests beside two photos."""
    suffix, content = manifest
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.webp", "b.webp"):
            (Path(folder) / name).symlink_to(PHOTO)
        path = Path(folder) / f"photos{suffix}"
        path.write_bytes(_encoded(content, encoding))
        _tolerated(lambda: load_dataset(path))


FOLDERS = ["cat", "dog", "red panda"]
lines = st.one_of(
    st.lists(st.one_of(st.sampled_from(FOLDERS), text), max_size=5).map("\n".join),
    rows.map(_csv),
    rows.map(lambda r: "\n".join("\t".join(line) for line in r)),
    anything.map(json.dumps),
    st.dictionaries(st.sampled_from(FOLDERS), text).map(json.dumps),
    mangled('{"cat": "a cat", "dog": "a dog", "red panda": "a red panda"}'),
    mangled("folder\tname\ncat\ta cat\ndog\ta dog\nred panda\ta red panda\n"),
)


@given(content=lines, suffix=st.sampled_from((".txt", ".csv", ".tsv", ".json")), encoding=encoding)
def class_list_case(content: str, suffix: str, encoding: str) -> None:
    """Files of class names, as ``--names`` and as ``--classes``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"names{suffix}"
        path.write_bytes(_encoded(content, encoding))
        _tolerated(lambda: read_names(path, FOLDERS))
        _tolerated(lambda: select_classes(Dataset("photos", FOLDERS, [], [], [], False), path))


entry = st.one_of(
    st.tuples(cell, st.integers(-1, 3), cell).map(list),
    st.tuples(st.sampled_from(("a.webp", "b.webp")), st.integers(0, 1), st.sampled_from(FOLDERS)).map(list),
    anything,
)
split = st.one_of(
    st.fixed_dictionaries(
        {"train": st.lists(entry, max_size=3), "test": st.lists(entry, max_size=3)},
        optional={"val": st.one_of(st.lists(entry, max_size=2), anything), "sha256": text},
    ).map(json.dumps),
    anything.map(json.dumps),
    mangled('{"train": [["a.webp", 0, "cat"], ["b.webp", 1, "dog"]], "test": [["a.webp", 0, "cat"]]}'),
)


@given(content=split, encoding=encoding)
def split_case(content: str, encoding: str) -> None:
    """Split files of the benchmark layout beside two photos."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.webp", "b.webp"):
            (Path(folder) / name).symlink_to(PHOTO)
        (Path(folder) / "split_zhou_Mine.json").write_bytes(_encoded(content, encoding))
        _tolerated(lambda: load_dataset(folder))


CASES = {
    "`--set`": settings_case,
    "method files": recipe_case,
    "manifests": manifest_case,
    "class lists": class_list_case,
    "split files": split_case,
}


def run_case(name: str, examples: int) -> None:
    """Tries one of :data:`CASES` with so many examples, the same every time.

    Raises:
        Exception: What an example raised, if any.
    """
    everything = list(HealthCheck)
    chosen = settings(max_examples=examples, deadline=None, derandomize=True, database=None,
                      suppress_health_check=everything)  # fmt: skip
    chosen(CASES[name])()


def fuzz(tally: Tally, examples: int) -> None:
    """All cases, counted."""
    for name in CASES:
        counts.clear()
        try:
            run_case(name, examples)
            for outcome, count in counts.items():
                tally.add(f"made-up {name}", outcome, count=count)
        except BaseException as error:
            notes = " ".join(getattr(error, "__notes__", ()))
            tally.add(f"made-up {name}", TRACEBACK, f"{type(error).__name__}: {error} {notes}"[:2000])
