"""Archives: download, checksum, safe unpacking, completion after a kill."""

import functools
import hashlib
import http.server
import io
import shutil
import tarfile
import threading

import pytest
from dataset_files import check_error

from segframe.data.datasets.voc import VOC
from segframe.data.download import fetch_archive

FILES = {"kit/a.txt": b"a", "kit/deep/b.txt": b"b" * 1000}


def make_tar(path, files, mode="w", **attributes):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=["tar", "tgz"])
def archive(request, tmp_path):
    return make_tar(tmp_path / f"source.{request.param}", FILES, "w:gz" if request.param == "tgz" else "w")


def md5_of(archive):
    return hashlib.md5(archive.read_bytes()).hexdigest()


def fetch_local(archive, root, holds="kit"):
    """Fetch an archive that already lies in root."""
    root.mkdir(exist_ok=True)
    shutil.copy(archive, root / archive.name)
    fetch_archive(f"https://example.org/{archive.name}", md5_of(archive), root, holds)


def files_below(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def url(tmp_path, monkeypatch):
    """URL of tmp_path."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Handler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_archives_are_fetched_and_unpacked_once(tmp_path, archive, url):
    root = tmp_path / "root"
    root.mkdir()
    (root / f"{archive.name}.part").write_text("of a download that was killed")
    fetch_archive(f"{url}/{archive.name}", md5_of(archive), root, "kit")
    assert files_below(root) == {*FILES, archive.name}
    assert (root / "kit/deep/b.txt").read_bytes() == FILES["kit/deep/b.txt"]
    (root / "kit/a.txt").unlink()
    fetch_archive("https://example.org/never.tar", "0", root, "kit")
    assert not (root / "kit/a.txt").exists()


def test_wrong_checksum(tmp_path, archive, url):
    md5 = "0" * 32
    local = f"https://example.org/{archive.name}"
    check_error(lambda: fetch_archive(local, md5, tmp_path, "kit"), archive, "MD5", md5, "delete it")
    remote = f"{url}/{archive.name}"
    check_error(lambda: fetch_archive(remote, md5, tmp_path / "root", "kit"), "cannot fetch", "by hand")
    assert files_below(tmp_path) <= {archive.name, f"root/{archive.name}.part"}


def test_a_failed_download_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    url = "http://127.0.0.1:1/absent.tar"
    check_error(lambda: fetch_archive(url, "0" * 32, tmp_path / "voc", "kit"), "cannot fetch", "put it at")


@pytest.mark.parametrize(
    ("name", "attributes"), [("../out.txt", {}), ("kit/link", {"type": tarfile.SYMTYPE, "linkname": "../../out.txt"})]
)
def test_unsafe_members_are_refused(tmp_path, name, attributes):
    archive = make_tar(tmp_path / "x.tar", {name: b""}, **attributes)
    check_error(lambda: fetch_local(archive, tmp_path / "root"), archive.name, "cannot unpack", name)
    assert not (tmp_path / "out.txt").exists()


def test_full_disk(tmp_path, archive, monkeypatch):
    monkeypatch.setattr("tarfile.copyfileobj", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left")))
    check_error(lambda: fetch_local(archive, tmp_path / "root"), archive.name, "No space left", "data.root")


def test_damaged_archives(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:120])
    check_error(lambda: fetch_local(archive, tmp_path / "root"), archive.name, "cannot unpack")


def test_a_kill_while_unpacking_is_completed_by_the_next_run(tmp_path, archive, monkeypatch):
    root, copy = tmp_path / "root", tarfile.copyfileobj

    def kill(*args):
        copy(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr("tarfile.copyfileobj", kill)
    with pytest.raises(KeyboardInterrupt):
        fetch_local(archive, root)
    monkeypatch.undo()
    assert (root / "kit/a.txt").exists()
    fetch_local(archive, root)
    assert files_below(root) == {*FILES, archive.name}


def test_voc_fetches_both_archives(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("segframe.data.datasets.voc.fetch_archive", lambda *arguments: calls.append(arguments))
    VOC.download(tmp_path)
    assert [call[2:] for call in calls] == [
        (tmp_path, "VOCdevkit/VOC2012/JPEGImages"),
        (tmp_path, "benchmark_RELEASE/dataset/cls"),
    ]
