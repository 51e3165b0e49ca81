"""Fetching from a server on this machine: resumed, verified, unpacked without escape."""

import errno
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.catalogue_makers import make
from restore_vlm.data.catalogue import DATASETS, Download, fetch, load_catalogued
from restore_vlm.data.catalogue import download as downloading
from restore_vlm.data.catalogue.download import download
from restore_vlm.data.catalogue.unpack import unpack
from restore_vlm.errors import UserError


@dataclass
class Server:
    """Files by path, and how to misbehave."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers stops."""
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str = '"1"'
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append((self.path, wanted))
            if state.errors:
                self.send_error(state.errors.pop(0))
                return
            if self.path not in state.files:
                self.send_error(404)
                return
            content = state.files[self.path]
            same = self.headers.get("If-Range") in (None, state.etag)
            start = int(wanted[6:-1]) if wanted and state.ranges and same else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = state.cuts.pop(0) if state.cuts else len(content)
            self.wfile.write(content[start : start + stop])

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{web.server_port}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    monkeypatch.setattr(downloading, "CHUNK", 1000)
    yield state
    web.shutdown()
    thread.join()
    web.server_close()


CONTENT = bytes(range(256)) * 40
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


def fails(match: str, call: object, *args: object, **kwargs: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    assert "\n" not in str(caught.value)


# --- download


def test_download(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    seen: list[tuple[int, int]] = []
    download(f"{server.url}/a.bin", tmp_path / "a", MD5, lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 5
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_interrupted_download_goes_on_by_itself(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.cuts = [3000, 2500]
    download(f"{server.url}/a", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["", "bytes=3000-", "bytes=5500-"]


def test_interrupted_download_goes_on_next_time(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.cuts = [2000, 100, 100, 100]
    fails("stopped after 2,300 bytes.*goes on from there", download, f"{server.url}/a", tmp_path / "a", MD5)
    assert (tmp_path / "a.part").stat().st_size == 2300
    download(f"{server.url}/a", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=2300-"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_server_that_cannot_resume(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.cuts, server.ranges = [3000], False
    download(f"{server.url}/a", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_file_that_changes_between_two_runs(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.cuts = [3000, 0, 0, 0]
    fails("stopped after 3,000", download, f"{server.url}/a", tmp_path / "a")
    server.files["/a"], server.etag = CONTENT[::-1], '"2"'
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_part_that_is_complete(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    download(f"{server.url}/a", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    download(f"{server.url}/a", tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT + b"!"
    for checksum in (MD5, "sha256:" + hashlib.sha256(CONTENT).hexdigest()):
        fails("not the published .* was removed", download, f"{server.url}/a", tmp_path / "a", checksum)
        assert list(tmp_path.iterdir()) == []


def test_servers_that_refuse(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.errors = [503, 500]
    download(f"{server.url}/a", tmp_path / "a", MD5)
    fails(r"the server answers 404 Not Found.*by hand", download, f"{server.url}/b", tmp_path / "b")
    server.errors = [503] * 4
    fails("stopped after 0 bytes .the server answers 503", download, f"{server.url}/a", tmp_path / "c")
    fails("stopped after 0 bytes", download, "http://127.0.0.1:9/a", tmp_path / "d")
    fails("not an http or https address", download, f"file://{tmp_path / 'a'}", tmp_path / "e")


def test_no_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"] = CONTENT
    fails("Cannot write .*absent/a.part", download, f"{server.url}/a", tmp_path / "absent" / "a")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    fails("needs 0.0 GB more, and 0.0 GB are free; make room", download, f"{server.url}/a", tmp_path / "a")


# --- unpack


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def zip_of(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as content:
        for name, data in members:
            content.writestr(name, data)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar(tmp_path: Path, mode: str) -> None:
    members = [file("top/a/1.jpg", b"one"), file("./top/b.txt", b"two"), file("other/c", b"three")]
    members.append(link("top/same.jpg", "top/a/1.jpg", tarfile.LNKTYPE))
    archive = tar_of(tmp_path / "x", *members, mode=mode)
    unpack(archive, tmp_path / "out", "top")
    assert files_in(tmp_path / "out") == {"a/1.jpg": b"one", "b.txt": b"two", "same.jpg": b"one"}
    unpack(archive, tmp_path / "all")
    assert set(files_in(tmp_path / "all")) == {"top/a/1.jpg", "top/b.txt", "other/c", "top/same.jpg"}


def test_zip(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x", ("top/", b""), ("top/a/1.jpg", b"one"), ("__MACOSX/top/a", b""))
    unpack(archive, tmp_path / "out", "top")
    assert files_in(tmp_path / "out") == {"a/1.jpg": b"one"}


@pytest.mark.parametrize(
    "members",
    [
        [file("top/../../evil")],
        [link("top/d", "/tmp"), file("top/d/evil")],
        [link("top/d", "../.."), file("top/d/evil")],
        [link("top/evil", "../../secret", tarfile.LNKTYPE)],
        [link("top/evil", "", tarfile.CHRTYPE)],
    ],
)
@pytest.mark.parametrize("strip", ["", "top"])
def test_tar_that_would_escape(tmp_path: Path, members: list, strip: str) -> None:
    (tmp_path / "secret").write_text("secret")
    archive = tar_of(tmp_path / "x.tgz", *members)
    fails("x.tgz is not safe to unpack", unpack, archive, tmp_path / "in" / "out", strip)
    assert {f.name for f in tmp_path.rglob("*")} - {"x.tgz", "in", "out", "secret", "top", "d"} == set()
    assert not any(f.is_symlink() for f in tmp_path.rglob("*"))


def test_absolute_path_in_tar_stays_inside(tmp_path: Path) -> None:
    unpack(tar_of(tmp_path / "x", file(f"{tmp_path}/evil")), tmp_path / "out")
    assert not (tmp_path / "evil").exists() and (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil", "..\\evil", "\\evil"])
def test_zip_that_would_escape(tmp_path: Path, name: str) -> None:
    archive = zip_of(tmp_path / "x.zip", ("top/good", b"x"), (name, b"x"))
    fails("x.zip is not safe to unpack .*leads out", unpack, archive, tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*"))


def test_zip_with_a_link(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("d")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zip_of(tmp_path / "x.zip", (member, b"/tmp"), ("d/evil", b"x"))
    fails("'d' is a link", unpack, archive, tmp_path / "out")


def test_damaged_archives(tmp_path: Path) -> None:
    good = tar_of(tmp_path / "good.tgz", file("a", os.urandom(5000))).read_bytes()
    zipped = zip_of(tmp_path / "good.zip", ("a", os.urandom(5000))).read_bytes()
    for content in (b"", b"<html>", good[:2000], zipped[:2000], zipped[:60] + b"!" + zipped[61:]):
        (tmp_path / "bad").write_bytes(content)
        fails("bad is not an archive, or damaged", unpack, tmp_path / "bad", tmp_path / "out")
    fails("holds nothing in top", unpack, tmp_path / "good.tgz", tmp_path / "out", "top")


# --- fetch


@pytest.fixture
def dtd(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root to fetch DTD to, the server having a miniature of it and its split."""
    folder = make("dtd", tmp_path / "publisher")
    load_catalogued("dtd", tmp_path / "publisher")
    split = folder / DATASETS["dtd"].split
    server.files["/split"] = split.read_bytes()
    split.unlink()
    with tarfile.open(tmp_path / "dtd.tar.gz", "w:gz") as tar:
        tar.add(folder, "dtd")
    server.files["/dtd.tar.gz"] = (tmp_path / "dtd.tar.gz").read_bytes()
    publish(monkeypatch, server, "/dtd.tar.gz")
    return tmp_path / "root"


def publish(monkeypatch: pytest.MonkeyPatch, server: Server, archive: str, **changes: str) -> None:
    entry = DATASETS["dtd"]
    checksum = "sha256:" + hashlib.sha256(server.files[archive]).hexdigest()
    main = Download(server.url + archive, "images", checksum, **{"strip": "dtd", **changes})
    split = Download(f"{server.url}/split", entry.split, optional=True)
    monkeypatch.setitem(DATASETS, "dtd", replace(entry, downloads=(main, split)))


def test_fetch(server: Server, dtd: Path) -> None:
    said: list[str] = []
    assert fetch("DTD", dtd, say=said.append)
    assert len(load_catalogued("dtd", dtd).train) == 9
    assert sorted(f.name for f in (dtd / "dtd").iterdir()) == ["images", DATASETS["dtd"].split]
    assert [text.split(" from")[0] for text in said] == ["Getting images", f"Getting {DATASETS['dtd'].split}"]
    asked = len(server.asked)
    assert fetch("dtd", dtd, say=said.append)
    assert len(server.asked) == asked and said[-2] == "images is there already."


def test_fetch_interrupted_and_resumed(server: Server, dtd: Path) -> None:
    server.cuts = [700, 0, 0, 0]
    fails("stopped after 700 bytes", fetch, "dtd", dtd)
    assert not (dtd / "dtd" / "images").exists()
    fetch("dtd", dtd)
    assert ("/dtd.tar.gz", "bytes=700-") in server.asked
    assert len(load_catalogued("dtd", dtd).test) == 6


def test_fetch_again_repairs(dtd: Path) -> None:
    fetch("dtd", dtd)
    mine = dtd / "dtd" / "images" / "mine.jpg"
    mine.write_text("x")
    broken = dtd / "dtd" / "images" / "banded" / "image_0000.jpg"
    broken.write_bytes(b"")
    fetch("dtd", dtd, again=True)
    assert broken.stat().st_size > 100 and mine.exists()


def test_fetch_wrong_checksum(server: Server, dtd: Path) -> None:
    server.files["/dtd.tar.gz"] += b"!"
    fails("not the published", fetch, "dtd", dtd)
    assert not (dtd / "dtd" / "images").exists()


def test_fetch_of_something_malicious(
    server: Server, dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tar_of(tmp_path / "evil.tgz", file("dtd/images/a/1.jpg"), file("dtd/../../../evil"))
    server.files["/evil.tgz"] = evil.read_bytes()
    publish(monkeypatch, server, "/evil.tgz")
    fails("not safe to unpack", fetch, "dtd", dtd)
    assert not (dtd / "dtd" / "images").exists() and not list(tmp_path.rglob("evil"))


def test_fetch_archive_in_an_archive(
    server: Server, dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = zip_of(
        tmp_path / "o.zip", ("top/in.tgz", tar_of(tmp_path / "i", file("images/a/1.jpg")).read_bytes())
    )
    server.files["/o.zip"] = outer.read_bytes()
    publish(monkeypatch, server, "/o.zip", strip="top", inner="in.tgz")
    fetch("dtd", dtd)
    assert [f.name for f in (dtd / "dtd/images").rglob("*")] == ["a", "1.jpg"]
    publish(monkeypatch, server, "/o.zip", strip="top")
    shutil.rmtree(dtd)
    fails("does not hold images", fetch, "dtd", dtd)


@pytest.mark.parametrize("page", [b"<html>sign in</html>", b"{}", b'{"train": 1, "test": 2}'])
def test_fetch_split_that_is_a_web_page(server: Server, dtd: Path, page: bytes) -> None:
    server.files["/split"] = page
    said: list[str] = []
    fetch("dtd", dtd, say=said.append)
    assert "gave something else than split_zhou" in said[-1] and "a split is made by" in said[-1]
    assert sorted(f.name for f in (dtd / "dtd").iterdir()) == ["images"]
    server.files["/split"] = json.dumps({"train": [["a", 0, "b"]], "test": [["a", 0, "b"]]}).encode()
    fetch("dtd", dtd)
    assert (dtd / "dtd" / DATASETS["dtd"].split).is_file()


def test_fetch_full_disk(server: Server, dtd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", full)
        fails("Cannot unpack .*No space left", fetch, "dtd", dtd)
    asked = len(server.asked)
    fetch("dtd", dtd)
    assert [path for path, _ in server.asked[asked:]] == ["/split"]  # the archive was kept


def test_fetch_twice_at_once(dtd: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (dtd / "dtd").mkdir(parents=True)
    handle = os.open(dtd / "dtd", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        fails("Another process is fetching", fetch, "dtd", dtd)
    finally:
        os.close(handle)
    fetch("dtd", dtd)


def test_fetch_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    fails("Cannot write to .*choose another --root", fetch, "dtd", tmp_path / "file")


@pytest.mark.parametrize("name", ["imagenet", "stanford_cars", "ucf101", "imagenet_sketch"])
def test_what_cannot_be_fetched(tmp_path: Path, name: str) -> None:
    assert fetch(name, tmp_path) is False
    assert list(tmp_path.iterdir()) == []
    assert any(str(tmp_path / DATASETS[name].folder) in s for s in DATASETS[name].instructions(tmp_path))
