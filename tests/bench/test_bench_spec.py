from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bench_makers import DEMO
from restore_vlm.bench.spec import Spec, address, anchor_of, backbone_identity, learns, listing, recipe_fields
from restore_vlm.data import Item, load_dataset
from restore_vlm.errors import UserError
from restore_vlm.method import load_recipe

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
TABLES = st.dictionaries(st.text(), TREES, min_size=1, max_size=5)


@given(TABLES, st.randoms())
def test_order_does_not_matter(table: dict, random) -> None:
    keys = list(table)
    random.shuffle(keys)
    assert address({k: table[k] for k in keys}) == address(table)


@given(TABLES, LEAVES, st.data())
def test_every_value_matters(table: dict, other, data) -> None:
    key = data.draw(st.sampled_from(sorted(table)))
    changed = table | {key: [table[key], other]}
    assert address(changed) != address(table)
    assert address(table | {key + "x": other}) != address(table) or key + "x" in table


SPEC = Spec(recipe_fields(load_recipe("restore")), "tiny", "fp32", 1, "abc")


@pytest.mark.parametrize("field", [f.name for f in fields(Spec)])
def test_every_field_of_a_run_matters(field: str) -> None:
    other = {
        "recipe": {},
        "backbone": "x",
        "precision": "bf16",
        "seed": 2,
        "images": "abd",
        "validation": "v",
    }[field]
    assert replace(SPEC, **{field: other}).address != SPEC.address


def every_setting(table: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        p
        for k, v in table.items()
        for p in (every_setting(v, (*path, k)) if isinstance(v, dict) else [(*path, k)])
    ]


def test_every_setting_of_a_recipe_matters() -> None:
    seen = {SPEC.address}
    for path in every_setting(asdict(SPEC)["recipe"]):
        changed = asdict(SPEC)["recipe"]
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "other"
        seen.add(replace(SPEC, recipe=changed).address)
    assert len(seen) == 1 + len(every_setting(asdict(SPEC)["recipe"]))


def test_names_and_sources_do_not_matter() -> None:
    recipe = load_recipe("maple")
    renamed = recipe.model_copy(update={"name": "mine", "source": "me"})
    assert recipe_fields(recipe) == recipe_fields(renamed)


def test_zero_shot_depends_on_its_prompt_alone() -> None:
    clip = load_recipe("clip")
    assert not learns(clip)
    assert recipe_fields(clip) == recipe_fields(load_recipe("clip", settings=["training.epochs=7"]))
    assert recipe_fields(clip) != recipe_fields(load_recipe("clip", settings=["template=a {}."]))
    assert learns(load_recipe("clip", settings=["heads.cache.learned=false"]))


def test_a_listing_sees_every_change(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"12")
    items = [Item(tmp_path / "a/1.jpg", 0), Item(tmp_path / "b/2.jpg", 1)]
    anchor = anchor_of(i.path for i in items)
    assert anchor == tmp_path
    first = listing(items, ["x", "y"], anchor)
    assert listing(items, ["x", "y"], anchor) == first
    others = {
        listing(items[::-1], ["x", "y"], anchor),
        listing(items, ["x", "z"], anchor),
        listing(items[:1], ["x", "y"], anchor),
        listing([items[0], Item(items[1].path, 0)], ["x", "y"], anchor),
    }
    (tmp_path / "a/1.jpg").write_bytes(b"123")
    others.add(listing(items, ["x", "y"], anchor))
    assert len(others | {first}) == 6
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).rename(moved / name)
    again = [Item(moved / i.path.relative_to(tmp_path), i.label) for i in items]
    assert listing(again, ["x", "y"], moved) in others
    with pytest.raises(UserError, match=r"a/1\.jpg cannot be found"):
        listing(items, ["x", "y"], anchor)


def test_backbones_are_their_content(tmp_path: Path) -> None:
    assert backbone_identity("ViT-B-16:openai") == "ViT-B-16:openai"
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for folder, content in zip(folders, ("1", "1", "2"), strict=True):
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(content)
    one, same, other = (backbone_identity(str(f)) for f in folders)
    assert one == same != other
    assert len(backbone_identity("tiny")) == 16


def test_anchor_of_a_real_dataset() -> None:
    data = load_dataset(DEMO)
    assert anchor_of(i.path for i in [*data.train, *data.test]) == DEMO
