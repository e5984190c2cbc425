"""Where json= and plot= write: into new files and the program's own, told before the work."""

import json
import os

import pytest
from segframe.reports import check_picture, check_report
from test_check_data import FOLDER

from segframe.errors import UserError

KEYS = ("splits", "findings")


def test_another_files_content_is_kept(tmp_path):
    for name, content in {
        "a.png": b"\x89PNG",
        "config.yaml": b"seed: 0\n",
        "other.json": b'{"splits": 1}',
        "list.json": b"[1]",
        "cut.json": b'{"splits": ',
        "deep.json": b'{"a":' * 100_000,
        "none": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"json=.*{name} is there already and nothing that this program has"):
            check_report("json", path, *KEYS)
        assert path.read_bytes() == content
    for name, content in {"a.png": b"GIF", "b.pdf": b"\x89PNG", "c.ckpt": b"PK", "d": b"text"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is there already"):
            check_picture("plot", tmp_path / name)


def test_its_own_files_are_replaced(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"splits": {}, "findings": [], "more": 1}))
    check_report("json", tmp_path / "a.json", *KEYS)
    check_report("json", tmp_path / "new/b.json", *KEYS)
    (tmp_path / "a.png").write_bytes(b"\x89PNG...")
    check_picture("plot", tmp_path / "a.png")
    check_picture("plot", tmp_path / "b.eps")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "a.png", "new"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux")
def test_bad_places_are_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "text").touch()
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is there already"),
        (tmp_path / "nowhere", "is there already"),
        (tmp_path / "text/a.json", "cannot write"),
        ("/proc/a.json", "cannot write /proc/a.json"),
        ("/proc/a/b.json", "cannot write /proc/a/b.json"),
        (tmp_path / ("x" * 300), "cannot write"),
    ]:
        with pytest.raises(UserError, match=message):
            check_report("json", type(tmp_path)(path), *KEYS)


def test_the_programs_ask_first(run, photos, tmp_path, monkeypatch):
    image = photos / "images/train/3.png"
    kept = image.read_bytes()
    monkeypatch.setattr("segframe.data.inspection.splits.examine_all", None)
    monkeypatch.setattr("segframe.benchmark.runner.measure", None)
    for words in (
        ("scripts/check_data.py", *FOLDER, f"json={image}"),
        ("scripts/benchmark.py", "quick=true", "only=[gpu_fcn8s]", f"json={image}"),
        ("scripts/benchmark.py", "quick=true", "only=[gpu_fcn8s]", f"plot={photos}"),
    ):
        result = run(*words)
        assert result.code == 1
        assert "is there already" in result.out or "is a folder" in result.out
        assert "Traceback" not in result.out
    assert image.read_bytes() == kept
