"""Imports point down one list; also those hidden in functions or behind TYPE_CHECKING."""

import ast
from collections.abc import Iterator
from pathlib import Path

import restore_vlm

SOURCE = Path(restore_vlm.__file__).parent
LAYERS = (
    "errors", "terminal", "runtime", "backbone", "data", "method", "measure", "training", "evaluation",
    "classifier", "bench", "figures", "report", "demo", "cli",
)  # fmt: skip
"""Each may import itself and those before it."""


def imported(path: Path) -> Iterator[str]:
    """The package's own modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def layer(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "restore_vlm" and len(parts) > 1 and parts[1] in LAYERS else None


def files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def test_every_file_is_in_a_layer() -> None:
    assert {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in files()} == set(LAYERS)


def test_imports_point_down() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for path in files()
        for module in imported(path)
        if (to := layer(module))
        and LAYERS.index(to) > LAYERS.index(path.relative_to(SOURCE).parts[0].removesuffix(".py"))
    ]
    assert not wrong


def graph() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports; packages are their ``__init__``."""
    names = {
        ".".join(["restore_vlm", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        for path in files()
    }
    found: dict[str, set[str]] = {}
    for path in files():
        name = ".".join(["restore_vlm", *path.relative_to(SOURCE).with_suffix("").parts])
        mine = found.setdefault(name.removesuffix(".__init__"), set())
        for target in imported(path):
            known = target if target in names else target.rpartition(".")[0]
            if known in names:
                mine.add(known)
    return found


def test_no_circle() -> None:
    """A package imports its parts, and a part never its own package."""
    edges = graph()
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for after in sorted(edges.get(name, ())):
                visit(after, (*way, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())
