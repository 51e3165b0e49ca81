"""The look of methods is one and the same in all charts."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.figures.style import METHODS, SeriesStyle
from restore_vlm.method import methods


def looks(style: SeriesStyle) -> dict[str, tuple[str, ...]]:
    return {key["name"]: (key["colour"], key["dash"], key["shape"]) for key in style.legend()}


def test_every_bundled_method_has_a_look_of_its_own() -> None:
    assert set(METHODS) >= set(methods())
    found = looks(SeriesStyle(METHODS))
    colour_and_shape = Counter((colour, shape) for colour, _, shape in found.values())
    assert max(colour_and_shape.values()) == 1
    assert len({found[name][0] for name in METHODS[:8]}) == 8


@given(st.lists(st.sampled_from([*METHODS, "mine", "vpt (training.lr=1)", "restore [b]"]), unique=True))
def test_it_does_not_depend_on_what_else_is_drawn(names: list[str]) -> None:
    style = SeriesStyle(names)
    alone, found = looks(SeriesStyle(METHODS)), looks(style)
    assert list(found) == names and len(set(style.places)) == len(names)
    assert all(found[name] == alone[name] for name in names if name in METHODS)
    assert style.colour.to_dict()["scale"]["domain"] == names
    assert looks(style.on("series")) == found
