"""scripts/check_data.py: its report, its files, mistakes in its settings, a data set of photographs."""

import json
import os

import pytest
from conftest import mask_of
from PIL import Image

FOLDER = ("data=folder", "data.root=photos", "data.dataset.classes=[ground,tree,car]")
PROGRAM = ("scripts/check_data.py", "data.num_workers=0", "output_dir=out")


def test_report(run, photos, tmp_path):
    """Names appear as they are, not as markup of the tables."""
    for kind in ("masks", "images"):
        (photos / kind / "train/3.png").rename(photos / kind / "train/3[a].png")
    (photos / "masks/train/3[a].png").write_bytes(b"")
    words = ("data=folder", "data.root=photos", "data.dataset.classes=['a','x[/b]','c']")
    result = run(*PROGRAM, *words, "json=copy.json")
    assert result.code == 1
    assert "1 error, 0 warnings, 0 notes; 9 images and masks" in result.out
    assert "photos/masks/train/3[a].png" in result.out
    assert "x[/b]" in result.out
    contents = json.loads((tmp_path / "copy.json").read_text())
    assert contents == json.loads((tmp_path / "out/check_data.json").read_text())
    assert contents["splits"]["train"]["images_read"] == 6
    assert contents["splits"]["train"]["masks_read"] == 5
    assert contents["splits"]["val"]["classes"]["void"] == {"pixels": 0, "share": 0, "images": 0}
    assert [finding["severity"] for finding in contents["findings"]] == ["error"]
    Image.fromarray(mask_of(3)).save(photos / "masks/train/3[a].png")
    assert run(*PROGRAM, *words).code == 0


def test_mistakes(run, photos):
    for word, sentence in (
        ("data.root=no", "no does not exist"),
        ("splits=[trian]", "no split 'trian': it has train, val; type splits=[train]"),
        ("data.dataset.classes=???", "data.dataset.classes: it must be given; type data.dataset.classes=..."),
        ("data.dataset.images={split}/photos", "no folder {split}/photos below it, but images/train (6 files)"),
        ("splits=[]", "splits=[]: name at least one"),
    ):
        assert sentence in run(*PROGRAM, *FOLDER, word).error


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
def test_camvid(run):
    result = run(*PROGRAM, "data=camvid", f"data.root={os.environ['CAMVID_ROOT']}")
    assert result.code == 0, result.out
    assert "0 errors, 0 warnings" in result.out
    assert "its images are all in train and val" in result.out
