import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from restore_vlm.errors import UserError
from restore_vlm.runtime.locks import locked, locked_folder

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom restore_vlm.runtime import locks\n"
    "with {}:\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def holder(how: str, folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(how)], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_lock_tells_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    process = holder("locks.locked(Path('.lock'))", tmp_path)
    with pytest.raises(UserError, match=f"Process {process.pid} is writing to"), locked(tmp_path / ".lock"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_folder(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "new", "training into"):
        assert list((tmp_path / "new").iterdir()) == []
    process = holder("locks.locked_folder(Path('new'), 'x')", tmp_path)
    with (
        pytest.raises(UserError, match=r"Another process is training into .*new; wait"),
        locked_folder(tmp_path / "new", "training into"),
    ):
        pass
    process.kill()
    process.wait()
    with locked_folder(tmp_path / "new", "training into"):
        pass


def test_a_process_forked_from_the_holder_does_not_hold_it_on(tmp_path: Path) -> None:
    script = (
        "import os, time\nfrom pathlib import Path\n"
        "from restore_vlm.runtime.locks import locked, locked_folder\n"
        "here, there = os.pipe()\n"
        "with locked_folder(Path('.'), 'x'), locked(Path('.lock')):\n"
        "    if os.fork() == 0:\n        os.write(there, b'x')\n        time.sleep(60)\n"
        "    os.read(here, 1)\n    os.kill(os.getpid(), 9)\n"
    )
    group = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, start_new_session=True)
    assert group.wait() == -9
    try:
        with locked_folder(tmp_path, "x"), locked(tmp_path / ".lock"):
            pass
    finally:
        os.killpg(group.pid, signal.SIGKILL)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"), locked(tmp_path / "file" / ".lock"):
        pass
    with pytest.raises(UserError, match="Cannot write"), locked_folder(tmp_path / "file", "x"):
        pass
