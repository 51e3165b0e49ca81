import sys
from pathlib import Path

import pytest

from runtime.process_makers import ENDINGS, left_behind, start, wait_for

PARENT = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from restore_vlm.runtime.children import end_with_parent, run_in_child

def note(folder):
    Path(folder, str(multiprocessing.current_process().pid)).touch()
    time.sleep(10_000)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=run_in_child, args=(f"child:{name}", sys.argv[1]))
        for name in ("waits", "holds_the_lock", "without_prctl")
    ] + [context.Process(target=run_in_child, args=("importing:never", sys.argv[1]))]
    for child in children:
        child.start()
    pool = ProcessPoolExecutor(1, context, end_with_parent)
    pool.submit(note, sys.argv[1])
    try:
        while not Path(sys.argv[1], "raise").exists():
            time.sleep(0.01)
        raise ValueError
    finally:
        if sys.exc_info()[0] is not None:
            for child in multiprocessing.active_children():
                child.kill()
"""
CHILD = """
import ctypes, os, sys, time
from pathlib import Path

def waits(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(10_000)

def holds_the_lock(folder):
    Path(folder, str(os.getpid())).touch()
    ctypes.PyDLL(None).sleep(10_000)  # no other thread of this process can run

def without_prctl(folder):
    from restore_vlm.runtime.children import end_with_parent
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    sys.platform = "another"
    end_with_parent()
    Path(folder, str(os.getpid())).touch()
    time.sleep(10_000)
"""
IMPORTING = """
import os, sys, time
from pathlib import Path
Path(os.environ["NOTES"], str(os.getpid())).touch()
time.sleep(10_000)
"""
LAUNCHED = """
import subprocess, sys, time
code = ("import sys, time; from pathlib import Path\\n"
    "from restore_vlm.runtime.children import end_with_parent\\n"
    "sys.platform = 'another'; end_with_parent(); Path(sys.argv[1], 'one').touch(); time.sleep(10_000)")
subprocess.Popen([sys.executable, "-c", code, sys.argv[1]]).wait()
"""
LOADER = """
import sys, time
from pathlib import Path
from restore_vlm.data import Images, Item, loader

def stuck(image):
    Path(sys.argv[1], "one").touch()
    time.sleep(10_000)

photo = Path(sys.argv[2])
next(iter(loader(Images([Item(photo, 0)] * 4, stuck), 2, workers=2)))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word is Linux's own")


def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@linux
@pytest.mark.parametrize("ending", [*ENDINGS, "exception"])
def test_children_end_with_their_parent(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = notes(tmp_path)
    for name, code in {"parent": PARENT, "child": CHILD, "importing": IMPORTING}.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("NOTES", str(folder))
    parent = start(str(tmp_path / "parent.py"), str(folder))
    wait_for(lambda: len(list(folder.iterdir())) == 5, parent)
    end = ENDINGS.get(ending, lambda _: (folder / "raise").touch())
    assert left_behind(parent, end) == []


def test_without_multiprocessing_and_without_the_kernel(tmp_path: Path) -> None:
    folder = notes(tmp_path)
    parent = start("-c", LAUNCHED, str(folder))
    wait_for(lambda: list(folder.iterdir()), parent)
    assert left_behind(parent, ENDINGS["killed"]) == []


@linux
def test_data_loader_workers_that_are_busy(tmp_path: Path, photos: Path) -> None:
    folder = notes(tmp_path)
    (tmp_path / "loads.py").write_text(LOADER)
    parent = start(str(tmp_path / "loads.py"), str(folder), str(next(photos.glob("*/*"))))
    wait_for(lambda: list(folder.iterdir()), parent)
    assert left_behind(parent, ENDINGS["killed"]) == []
