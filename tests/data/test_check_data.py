"""The check of a dataset: spoiled files, each with its finding; the report."""

import json
import os

import numpy as np
import pytest
from conftest import SIZE, TINY, composed, mask_of, photo
from dataset_files import put_lines
from PIL import Image

from segframe.config.instantiate import instantiate
from segframe.data.image_io import pack
from segframe.data.inspection import report, splits
from segframe.data.inspection.facts import count_values
from segframe.data.inspection.findings import ERROR, NOTE, WARNING

FOLDER = ("data=folder", "data.root=photos", "data.dataset.classes=[ground,tree,car]")


def check(photos, *overrides, num_workers=0):
    """The findings, and the splits that were checked."""
    config = composed(f"data.root={photos}", *FOLDER[::2], *overrides, name="check_data")
    make_dataset = instantiate(config.data.dataset, "data.dataset")
    found = splits.find_splits(make_dataset, config.data, config.splits)
    assert len(list(splits.examine_all(found.splits, num_workers))) == splits.num_pairs(found.splits)
    return report.all_findings(found, config.data.train_split, config.data.val_split), found


def finding(photos, severity, what, *overrides):
    """The one finding that says so, of that severity."""
    found, _ = check(photos, *overrides)
    (one,) = [item for item in found if what in item.what]
    assert one.severity == severity
    return one


def test_nothing_is_found_in_sound_data(photos):
    found, metadata = check(photos)
    assert found == []
    assert [split.name for split in metadata.splits] == ["train", "val"]


def test_processes_find_the_same(photos):
    (photos / "masks/train/3.png").write_bytes(b"")
    Image.fromarray(mask_of(0) + 1).save(photos / "masks/val/10.png")
    assert check(photos, num_workers=2)[0] == check(photos)[0]


def test_everything_is_found_at_once(photos):
    (photos / "masks/train/0.png").unlink()
    (photos / "images/train/1.png").write_bytes((photos / "images/train/1.png").read_bytes()[:200])
    Image.fromarray(mask_of(2)[:40]).save(photos / "masks/train/2.png")
    Image.fromarray(mask_of(3) + 1).save(photos / "masks/train/3.png")
    found, _ = check(photos)
    assert [item.severity for item in found] == [ERROR] * 4
    assert [item.files for item in found] == [
        [str(photos / "images/train/0.png")],
        [str(photos / "images/train/1.png")],
        [str(photos / "images/train/2.png")],
        [str(photos / "masks/train/3.png")],
    ]


def test_strays(photos):
    (photos / "images/train/0.png").unlink()
    Image.fromarray(mask_of(1)).save(photos / "masks/train/1.jpg")
    Image.fromarray(photo(2)).save(photos / "images/train/2.bmp")
    assert finding(photos, WARNING, "without an image").files == [str(photos / "masks/train/0.png")]
    assert finding(photos, ERROR, "stored as JPEG").files == [str(photos / "masks/train/1.jpg")]
    assert finding(photos, ERROR, "share a name").files == [str(photos / "images/train/2.png")]


def test_lists(photos):
    put_lines(photos / "a.txt", *(f"images/train/{k}.png masks/train/{k}.png" for k in (0, 1, 2, 2, 9)))
    put_lines(photos / "b.txt", *(f"images/train/{k}.png masks/train/{k}.png" for k in (2, 3)))
    lists = ("data.dataset.splits={train: a.txt, val: b.txt}", "data.dataset.images=.", "data.dataset.masks=.")
    assert finding(photos, ERROR, "listed twice", *lists).files == ["train: 2"]
    assert len(finding(photos, ERROR, "does not exist", *lists).files) == 2
    assert finding(photos, ERROR, "is in train too", *lists).files == [str(photos / "images/train/2.png")]


def test_a_list_of_which_nothing_can_be_used(photos):
    put_lines(photos / "a.txt", "0 0 1", "1 1 1")
    put_lines(photos / "b.txt", "images/val/10.png,masks/val/10.png")
    lists = ("data.dataset.splits={train: a.txt, val: b.txt}", "data.dataset.images=.", "data.dataset.masks=.")
    advice = finding(photos, ERROR, "cannot be opened", *lists).advice
    assert advice.startswith(f"no line of {photos / 'a.txt'} is an existing image and mask")
    assert advice.endswith(f"neither a name nor an image and a mask: {photos / 'a.txt'}, line 1, '0 0 1' and 1 more")
    put_lines(photos / "a.txt", "images/train/0.png masks/train/0.png", "1 1 1")
    assert finding(photos, ERROR, "neither a name nor", *lists).advice.startswith(
        "write a name, or an image and a mask"
    )


def test_values_are_counted_over_the_split(photos):
    for seed in (1, 4):
        Image.fromarray(np.where(mask_of(seed) == 2, 3, mask_of(seed)).astype(np.uint8)).save(
            photos / f"masks/train/{seed}.png"
        )
    one = finding(photos, ERROR, "none of the 3 classes")
    pixels = sum(int((mask_of(seed) == 2).sum()) for seed in (1, 4))
    assert one.what.endswith(f"3 ({pixels:,} pixels, 2 files)")
    assert one.advice == "if 3 is the void, set 'data.dataset.label_map={3: ignore}'"
    assert one.details == [{"value": "3", "pixels": pixels, "files": 2, "first": str(photos / "masks/train/1.png")}]
    assert not [f for f in check(photos, "data.dataset.label_map={3: ignore}")[0] if f.severity == ERROR]


def test_colours(photos):
    palette = np.array([(0, 0, 0), (128, 0, 0), (1, 2, 3)], np.uint8)
    for path in (photos / "masks").rglob("*.png"):
        Image.fromarray(palette[np.array(Image.open(path))]).save(path)
    one = next(item for item in check(photos)[0] if item.split == "train")
    assert "#010203" in one.what
    assert '{"#010203": ignore}' in one.advice
    colours = "data.dataset.palette=[[0,0,0],[128,0,0],[1,2,3]]"
    found, metadata = check(photos, colours)
    assert found == []
    summary = report.summarize(metadata.splits[0])
    assert summary.encodings == {"RGB colours": 6}
    assert summary.pixels[2] == sum(int((mask_of(seed) == 2).sum()) for seed in range(6))
    twins = "data.dataset.palette=[[0,0,0],[128,0,0],[0,0,0]]"
    assert "#000000 to ground and to car" in check(photos, twins)[0][0].advice


def test_ways_to_store_masks(photos):
    Image.fromarray(np.dstack([np.zeros_like(mask_of(2))] * 3)).save(photos / "masks/train/2.png")
    assert "5 index, 1 RGB colours" in finding(photos, WARNING, "stored in different ways").what
    for k, colours in enumerate(([0, 0, 0, 255, 0, 0, 9, 9, 9], [0, 0, 0, 255, 0, 0, 8, 8, 8])):
        mask = Image.fromarray(mask_of(k))
        mask.putpalette(colours)
        mask.save(photos / f"masks/train/{k}.png")
    assert finding(photos, WARNING, "whose palette differs").files == [str(photos / "masks/train/1.png")]
    Image.fromarray(mask_of(4)).save(photos / "m.jpg")
    (photos / "m.jpg").rename(photos / "masks/train/4.png")
    assert finding(photos, WARNING, "stored as JPEG").files == [str(photos / "masks/train/4.png")]


def test_binary_masks(photos):
    for path in (photos / "masks").rglob("*.png"):
        Image.fromarray(np.where(mask_of(0) > 0, 255, 0).astype(np.uint8)).save(path)
    two = "data.dataset.classes=[ground,car]"
    found, _ = check(photos, two)
    assert "label_map={255: 1}" in next(item for item in found if "0 and 255" in item.what).advice
    assert not [item for item in check(photos, two, "data.dataset.label_map={255: 1}")[0] if item.severity == ERROR]
    void = check(photos, two, "data.dataset.label_map={255: ignore}")[0]
    assert not [item for item in void if "0 and 255" in item.what]
    Image.fromarray(np.minimum(mask_of(0), 1)).save(photos / "masks/train/0.png")
    assert len(finding(photos, WARNING, "beside masks of class 1", two).files) == 5


def test_contents(photos):
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(photos / "masks/train/0.png")
    Image.fromarray(np.full(SIZE, 1, np.uint8)).save(photos / "masks/train/1.png")
    Image.new("RGB", SIZE[::-1]).save(photos / "images/train/2.png")
    Image.new("L", SIZE[::-1], 9).save(photos / "images/train/3.png")
    assert finding(photos, WARNING, "void only").files == [str(photos / "masks/train/0.png")]
    assert finding(photos, NOTE, "single class").files == [str(photos / "masks/train/1.png")]
    assert len(finding(photos, WARNING, "single colour").files) == 2
    assert finding(photos, NOTE, "mode L").files == [str(photos / "images/train/3.png")]
    for path in (photos / "masks").rglob("*.png"):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    found, _ = check(photos)
    assert [item.severity for item in found if "contain ground only" in item.what] == [WARNING, WARNING]
    assert [item.severity for item in found if item.what == "no pixel of tree, car"] == [WARNING, NOTE]
    all_void = "data.dataset.label_map={other: ignore}"
    assert [item.severity for item in check(photos, all_void)[0] if "are void only" in item.what] == [ERROR, ERROR]


def test_orientations(photos):
    for seed, orientation in ((0, 6), (1, 3)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(photo(seed)).save(photos / f"images/train/{seed}.png", exif=exif)
    assert finding(photos, ERROR, "rotated by its EXIF orientation").files == [str(photos / "images/train/0.png")]
    assert finding(photos, WARNING, "rotated or mirrored").files == [str(photos / "images/train/1.png")]


def test_copies(photos):
    images = photos / "images"
    (images / "train/1.png").write_bytes((images / "train/0.png").read_bytes())
    (images / "val/10.png").write_bytes((images / "train/2.png").read_bytes())
    Image.fromarray(photo(3)).resize((32, 24)).resize(SIZE[::-1]).save(images / "val/11.png")
    Image.fromarray(photo(4) // 2 + 60).save(images / "train/5.png")
    assert finding(photos, WARNING, "with another mask").files == [str(images / "train/1.png")]
    assert finding(photos, ERROR, "that is in train too").files == [str(images / "val/10.png")]
    assert finding(photos, WARNING, "almost like one of train").files == [str(images / "val/11.png")]
    assert finding(photos, NOTE, "almost like an earlier one").files == [str(images / "train/5.png")]
    (photos / "masks/train/1.png").write_bytes((photos / "masks/train/0.png").read_bytes())
    assert finding(photos, WARNING, "with the same mask").files == [str(images / "train/1.png")]


def test_splits(photos):
    (photos / "images/extra").mkdir()
    found, metadata = check(photos)
    assert [split.name for split in metadata.splits] == ["train", "val"]
    assert "extra" in metadata.left_out
    found, metadata = check(photos, "splits=[val,extra]")
    assert [split.name for split in metadata.splits] == ["val"]
    assert [(item.split, item.what) for item in found if item.severity == ERROR] == [
        ("extra", "split that cannot be opened")
    ]


def test_one_split_for_both(photos):
    assert finding(photos, WARNING, "on the images of training", "data.val_split=train").split == "train"
    (photos / "images/val").rename(photos / "images/test")
    (photos / "masks/val").rename(photos / "masks/test")
    (photos / "images/test/10.png").write_bytes((photos / "images/train/2.png").read_bytes())
    assert finding(photos, ERROR, "is in train too", "data.val_split=train").split == "train + test"


def test_a_split_without_a_single_mask(photos):
    for seed in range(6):
        (photos / f"masks/train/{seed}.png").rename(photos / f"masks/train/{seed}.jpg")
    advice = finding(photos, ERROR, "cannot be opened").advice
    assert f"image without a mask: {photos / 'images/train/0.png'} and 5 more" in advice
    assert f"mask stored as JPEG: {photos / 'masks/train/0.jpg'} and 5 more" in advice


def test_values_are_counted_along_the_rows():
    for raw in (mask_of(0), pack(photo(0)), mask_of(1).astype(np.uint16) * 999, np.zeros((1, 1), np.uint8)):
        values, counts = count_values(raw)
        expected = np.unique(raw, return_counts=True)
        assert (values == expected[0]).all()
        assert (counts == expected[1]).all()


# the program


def test_the_report(run, photos, tmp_path):
    (photos / "masks/train/3.png").write_bytes(b"")
    result = run("scripts/check_data.py", *FOLDER, "data.num_workers=0", "output_dir=out", "json=copy.json")
    assert result.code == 1
    assert "1 error, 0 warnings, 0 notes; 9 images and masks" in result.out
    assert "photos/masks/train/3.png" in result.out
    told = json.loads((tmp_path / "copy.json").read_text())
    assert told == json.loads((tmp_path / "out/check_data.json").read_text())
    assert told["splits"]["train"]["images_read"] == 6
    assert told["splits"]["train"]["masks_read"] == 5
    assert told["splits"]["val"]["classes"]["void"] == {"pixels": 0, "share": 0, "images": 0}
    assert [item["severity"] for item in told["findings"]] == ["error"]
    (photos / "masks/train/3.png").write_bytes((photos / "masks/train/2.png").read_bytes())
    assert run("scripts/check_data.py", *FOLDER, "data.num_workers=0", "output_dir=out").code == 0


def test_the_report_shows_names_as_they_are(run, photos):
    (photos / "masks/train/3.png").rename(photos / "masks/train/3[a].png")
    (photos / "images/train/3.png").rename(photos / "images/train/3[a].png")
    (photos / "masks/train/3[a].png").write_bytes(b"")
    words = ("data=folder", "data.root=photos", "data.dataset.classes=['a','x[/b]','c']")
    result = run("scripts/check_data.py", *words, "data.num_workers=0", "output_dir=out")
    assert result.code == 1
    assert "photos/masks/train/3[a].png" in result.out
    assert "x[/b]" in result.out


def test_pixels_of_no_class_have_a_row(run, photos):
    Image.fromarray(np.full_like(mask_of(1), 7)).save(next((photos / "masks/val").iterdir()))
    result = run("scripts/check_data.py", *FOLDER, "data.num_workers=0", "output_dir=out")
    assert result.code == 1
    assert result.out.count("no class") == 1


def test_generated_data(run):
    result = run("scripts/check_data.py", *TINY[2:4], "data.num_workers=0", "output_dir=out")
    assert result.code == 0, result.out
    assert "train: 12 images of 32x32" in result.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data=foldr"], "did you mean folder?"),
        (["split=train"], "did you mean splits?"),
        (["data=folder", "data.root=no", "data.dataset.classes=[a,b]"], "no does not exist"),
        ([*FOLDER, "splits=[trian]"], "no split 'trian'"),
        ([*FOLDER, "splits=[]"], "splits=[]: name at least one"),
        ([*FOLDER, "data.num_workers=-1"], "data.num_workers=-1"),
        ([*FOLDER, "+data.dataset.claases=3"], "data.dataset.claases"),
    ],
)
def test_mistakes(run, photos, words, sentence):
    result = run("scripts/check_data.py", *words, "output_dir=out")
    assert result.code == 1
    (line,) = [line for line in result.out.splitlines() if line.startswith("error: ")]
    assert sentence in line
    assert "Traceback" not in result.out


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
def test_camvid(run):
    result = run("scripts/check_data.py", "data=camvid", f"data.root={os.environ['CAMVID_ROOT']}", "output_dir=out")
    assert result.code == 0, result.out
    assert "0 errors, 0 warnings" in result.out
    assert "its images are all in train and val" in result.out
