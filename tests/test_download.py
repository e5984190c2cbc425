"""Archives: fetched, compared with their checksum, unpacked inside their folder, whole or not at all."""

import functools
import hashlib
import http.server
import io
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from types import SimpleNamespace

import pytest
from test_data import complaint

from segframe.data.datasets.voc import VOC
from segframe.data.download import fetch_archive

FILES = {"kit/a.txt": b"a", "kit/deep/b.txt": b"b" * 1000}


def make_tar(path, files, mode="w", **more):
    """`more`: members with other attributes than a file's."""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path, files, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return path


def md5_of(archive):
    return hashlib.md5(archive.read_bytes()).hexdigest()


def fetch(archive, root, holds="kit"):
    """The archive is there, by hand."""
    root.mkdir(exist_ok=True)
    shutil.copy(archive, root / archive.name)
    fetch_archive(f"https://example.org/{archive.name}", md5_of(archive), root, holds)


def files_below(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=["tar", "tgz", "zip"])
def make(request, tmp_path):
    def archive(files=FILES):
        path = tmp_path / f"source.{request.param}"
        if request.param == "zip":
            return make_zip(path, files)
        return make_tar(path, files, "w:gz" if request.param == "tgz" else "w")

    return archive


@pytest.fixture
def url(tmp_path, monkeypatch):
    """Of tmp_path, from a server of this process."""
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(QuietHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_archives_are_fetched_and_unpacked_once(tmp_path, make, url):
    archive = make()
    (tmp_path / "root").mkdir()
    (tmp_path / f"root/{archive.name}.part").write_text("of a download that was killed")
    fetch_archive(f"{url}/{archive.name}", md5_of(archive), tmp_path / "root", "kit")
    assert files_below(tmp_path / "root") == {*FILES, archive.name}
    assert (tmp_path / "root/kit/deep/b.txt").read_bytes() == FILES["kit/deep/b.txt"]
    (tmp_path / "root/kit/a.txt").unlink()
    fetch_archive("https://example.org/never.tar", "0", tmp_path / "root", "kit")
    assert not (tmp_path / "root/kit/a.txt").exists()


def test_an_archive_put_there_by_hand(tmp_path, make):
    archive = make()
    fetch(archive, tmp_path / "root")
    assert files_below(tmp_path / "root") == {*FILES, archive.name}


def test_a_wrong_checksum_is_told_before_anything_is_unpacked(tmp_path, make, url):
    archive = make()
    by_hand = f"https://example.org/{archive.name}"
    complaint(lambda: fetch_archive(by_hand, "0" * 32, tmp_path, "kit"), archive, "MD5", "0" * 32, "delete it")
    complaint(
        lambda: fetch_archive(f"{url}/{archive.name}", "0" * 32, tmp_path / "root", "kit"), "cannot fetch", "by hand"
    )
    assert files_below(tmp_path) <= {archive.name, f"root/{archive.name}.part"}


def test_what_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    gone = "http://127.0.0.1:9/gone.tar"
    complaint(lambda: fetch_archive(gone, "0", tmp_path / "root", "kit"), gone, "by hand", tmp_path / "root/gone.tar")


@pytest.mark.parametrize(
    "name", ["../out.txt", "kit/../../out.txt", "/tmp/segframe-out.txt", "..\\out.txt", "C:/out.txt"]
)
def test_names_that_lead_outside(tmp_path, make, name):
    archive = make({"kit/a.txt": b"a", name: b"x"})
    complaint(lambda: fetch(archive, tmp_path / "root"), archive.name, repr(name), "leads out of its folder")
    assert files_below(tmp_path / "root") == {archive.name}
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../out.txt", "deep/../../.."])
def test_links_that_lead_outside(tmp_path, kind, target):
    archive = make_tar(tmp_path / "x.tar", {"kit/link": b""}, type=kind, linkname=target)
    complaint(lambda: fetch(archive, tmp_path / "root"), "'kit/link'", target, "leads out of its folder")


def test_links_that_stay_inside(tmp_path):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        (tmp_path / "a.txt").write_text("a")
        tar.add(tmp_path / "a.txt", "kit/a.txt")
        link = tarfile.TarInfo("kit/link")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        tar.addfile(link)
    fetch(archive, tmp_path / "root")
    assert (tmp_path / "root/kit/link").read_text() == "a"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path, kind):
    archive = make_tar(tmp_path / "x.tar", {"kit/device": b""}, type=kind)
    complaint(lambda: fetch(archive, tmp_path / "root"), "'kit/device'", "device")


def test_links_in_a_zip(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"kit/link": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    complaint(lambda: fetch(archive, tmp_path / "root"), "'kit/link'", "link")


def test_more_than_the_disk_holds(tmp_path, make, monkeypatch):
    archive = make()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=500))
    complaint(lambda: fetch(archive, tmp_path / "root"), archive.name, "are free", "data.root")
    assert files_below(tmp_path / "root") == {archive.name}


def test_a_zip_that_inflates_to_more_than_it_says(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"kit/bomb": bytes(1 << 24)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace((1 << 24).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    complaint(lambda: fetch(archive, tmp_path / "root"), archive.name, "cannot unpack", "kit/bomb")
    assert files_below(tmp_path / "root") == {archive.name}


def test_damaged_archives(tmp_path, make):
    archive = make({"kit/a.txt": os.urandom(100_000)})
    data = bytearray(archive.read_bytes())
    for name, damaged in (("cut", data[:5000]), ("none", b"not an archive")):
        (tmp_path / name).write_bytes(damaged)
        complaint(
            lambda name=name: fetch(tmp_path / name, tmp_path / "root"), tmp_path / "root" / name, "cannot unpack"
        )
    assert not (tmp_path / "root/kit").exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("times", [0, 1])
def test_a_run_killed_while_it_unpacks_or_moves_leaves_no_half_of_it(tmp_path, make, monkeypatch, times):
    """Killed, not failed: nothing is tidied up."""
    archive, root = make(), tmp_path / "root"
    (root / "kit").mkdir(parents=True)  # so that it is moved file by file
    calls, replace = [], os.replace

    def kill(source, target):
        calls.append(target)
        # First the folder's own name, then what it holds.
        if len(calls) == 1 + times:
            raise Killed
        replace(source, target)

    monkeypatch.setattr("shutil.rmtree", lambda *args, **more: None)
    monkeypatch.setattr("os.replace", kill)
    with pytest.raises(Killed):
        fetch(archive, root, "kit/deep")
    monkeypatch.undo()
    assert not (root / "kit/deep").exists()
    fetch(archive, root, "kit/deep")
    assert files_below(root) == {*FILES, archive.name}


def test_voc_fetches_both_archives(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("segframe.data.datasets.voc.fetch_archive", lambda *arguments: calls.append(arguments))
    VOC.download(tmp_path)
    assert [call[2:] for call in calls] == [
        (tmp_path, "VOCdevkit/VOC2012/JPEGImages"),
        (tmp_path, "benchmark_RELEASE/dataset/cls"),
    ]
