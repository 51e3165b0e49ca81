import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import torch

DEMO = Path(str(files("restore_vlm") / "assets" / "demo"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", help="folder of conformance case files to run instead of the bundled ones")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are up to a hundred times faster without threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 4 classes with 6 real photos each, without a split."""
    root = tmp_path_factory.mktemp("photos")
    for folder in sorted((DEMO / "train").iterdir())[:4]:
        (root / folder.name).mkdir()
        for photo in sorted(folder.iterdir())[:6]:
            shutil.copy(photo, root / folder.name)
    return root


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small random CLIP whose image tower, a ResNet, shows no blocks."""
    from backbone.tiny_models import CLOSED, write_folder

    folder = tmp_path_factory.mktemp("resnet") / "clip"
    write_folder(folder, CLOSED["resnet"])
    return str(folder)


@pytest.fixture(scope="session")
def resnet_grid(root: Path, resnet: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished grid on it, with one method that it refuses."""
    from bench.bench_makers import request, run, trials

    out = tmp_path_factory.mktemp("resnet") / "grid"
    asked = request("clip", "coop", "tip_adapter_f", "vpt", backbone=resnet)
    (sentence,) = run(root, out, trials("split"), asked).values()
    assert "Prompts cannot enter the image tower" in sentence and "ModifiedResNet" in sentence
    return out


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small datasets of real photos."""
    from bench.bench_makers import make_root

    return make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="session")
def grid(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished grid over them."""
    from bench.small_grid import run_small_grid

    out = tmp_path_factory.mktemp("grid")
    run_small_grid(root, out)
    return out
