"""check_data: each kind of damaged dataset gives its finding."""

import numpy as np
import pytest
from conftest import SIZE, composed, mask_of, photo
from dataset_files import put_lines
from PIL import Image

from segframe.config.instantiate import instantiate
from segframe.data.inspection import report, splits
from segframe.data.inspection.finding import ERROR, NOTE, WARNING

FOLDER = ("data=folder", "data.root=photos", "data.dataset.classes=[ground,tree,car]")


def check(photos, *overrides, num_workers=0, data=FOLDER):
    """The findings, and the splits that were checked."""
    config = composed(*data, *overrides, name="check_data")
    config.data.root = str(photos)
    make_dataset = instantiate(config.data.dataset, "data.dataset")
    found = splits.find_splits(make_dataset, config.data, config.splits)
    splits.examine_all(found.splits, num_workers)
    return report.all_findings(found, config.data.train_split, config.data.val_split), found


def check_finding(photos, severity, what, files, *overrides):
    """There is exactly one such finding, about these files below photos; returns it."""
    (found,) = [finding for finding in check(photos, *overrides)[0] if what in finding.what]
    assert found.severity == severity
    if files is not None:
        assert found.files == [str(photos / file) for file in files]
    return found


def put_mask(photos, name, mask):
    Image.fromarray(np.asarray(mask, np.uint8)).save(photos / f"masks/{name}")


def change_masks(photos, change):
    for path in (photos / "masks").rglob("*.png"):
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def test_all_errors_are_found_at_once_by_any_number_of_processes(photos):
    (photos / "masks/train/0.png").unlink()
    (photos / "images/train/1.png").write_bytes((photos / "images/train/1.png").read_bytes()[:200])
    put_mask(photos, "train/2.png", mask_of(2)[:40])
    put_mask(photos, "train/3.png", mask_of(3) + 1)
    findings, _ = check(photos)
    assert [finding.severity for finding in findings] == [ERROR] * 4
    files = ["images/train/0.png", "images/train/1.png", "images/train/2.png", "masks/train/3.png"]
    assert [finding.files for finding in findings] == [[str(photos / file)] for file in files]
    assert check(photos, num_workers=2)[0] == findings


def test_unpaired_files(photos):
    (photos / "images/train/0.png").unlink()
    put_mask(photos, "train/1.jpg", mask_of(1))
    (photos / "masks/train/1.png").unlink()
    Image.fromarray(photo(2)).save(photos / "images/train/2.bmp")
    check_finding(photos, WARNING, "without an image", ["masks/train/0.png"])
    check_finding(photos, ERROR, "stored as JPEG", ["masks/train/1.jpg"])
    check_finding(photos, ERROR, "share a name", ["images/train/2.png"])


def test_lists(photos):
    lists = ("data.dataset.splits={train: a.txt, val: b.txt}", "data.dataset.images=.", "data.dataset.masks=.")
    put_lines(photos / "a.txt", *(f"images/train/{k}.png masks/train/{k}.png" for k in (0, 1, 2, 2, 9)))
    put_lines(photos / "b.txt", *(f"images/train/{k}.png masks/train/{k}.png" for k in (2, 3)))
    assert check_finding(photos, ERROR, "listed twice", None, *lists).files == ["train: 2"]
    check_finding(photos, ERROR, "does not exist", ["images/train/9.png", "masks/train/9.png"], *lists)
    check_finding(photos, ERROR, "is in train too", ["images/train/2.png"], *lists)
    put_lines(photos / "names.txt", "0", "9")
    put_lines(photos / "one.txt", "1")
    by_name = "data.dataset.splits={train: names.txt, val: one.txt}", "data.dataset.images=images/train"
    found = check_finding(photos, ERROR, "without an image", None, *by_name, "data.dataset.masks=masks/train")
    assert found.files == [f"{photos / 'names.txt'}, line 2: 9"]
    put_lines(photos / "a.txt", "0 0 1", "1 1 1")
    advice = check_finding(photos, ERROR, "cannot be opened", [], *lists).advice
    assert advice.startswith(f"no line of {photos / 'a.txt'} is an existing image and mask")
    assert advice.endswith(f"neither a name nor an image and a mask: {photos / 'a.txt'}, line 1, '0 0 1' and 1 more")


def test_invalid_values_are_counted_over_the_split(photos):
    pixels = 0
    for seed in (1, 4):
        put_mask(photos, f"train/{seed}.png", np.where(mask_of(seed) == 2, 3, mask_of(seed)))
        pixels += int((mask_of(seed) == 2).sum())
    found = check_finding(photos, ERROR, "none of the 3 classes", ["masks/train/1.png", "masks/train/4.png"])
    assert found.what.endswith(f"3 ({pixels:,} pixels, 2 files)")
    assert found.advice.startswith("if 3 is the void, set 'data.dataset.label_map={3: ignore}'; if 0 is the void")
    assert not [f for f in check(photos, "data.dataset.label_map={3: ignore}")[0] if f.severity == ERROR]


def test_colours(photos):
    palette = np.array([(0, 0, 0), (128, 0, 0), (1, 2, 3)], np.uint8)
    change_masks(photos, lambda mask: palette[mask])
    found = next(finding for finding in check(photos)[0] if finding.split == "train")
    assert "data.dataset.palette is not set: #010203" in found.what
    assert found.advice.startswith("set 'data.dataset.palette=[[r,g,b],...]', the colours of the 3 classes")
    findings, found = check(photos, "data.dataset.palette=[[0,0,0],[128,0,0],[1,2,3]]")
    assert findings == []
    summary = report.summarize(found.splits[0])
    assert summary["mask_encodings"] == {"RGB colours": 6}
    assert summary["classes"]["car"]["pixels"] == sum(int((mask_of(seed) == 2).sum()) for seed in range(6))


def test_encodings_of_masks(photos):
    put_mask(photos, "train/2.png", np.zeros((*SIZE, 3)))
    assert "5 index, 1 RGB colours" in check_finding(photos, WARNING, "stored in different ways", None).what
    for k, colours in enumerate(([0, 0, 0, 255, 0, 0, 9, 9, 9], [0, 0, 0, 255, 0, 0, 8, 8, 8])):
        mask = Image.fromarray(mask_of(k))
        mask.putpalette(colours)
        mask.save(photos / f"masks/train/{k}.png")
    check_finding(photos, WARNING, "whose palette differs", ["masks/train/1.png"])
    Image.fromarray(np.dstack([mask_of(3), mask_of(2)])).save(photos / "masks/train/3.png")
    check_finding(photos, WARNING, "whose alpha channel differs", ["masks/train/3.png"])
    Image.fromarray(mask_of(4)).save(photos / "m.jpg")
    (photos / "m.jpg").rename(photos / "masks/train/4.png")
    check_finding(photos, WARNING, "stored as JPEG", ["masks/train/4.png"])


def test_palettes_in_another_order(photos):
    colours = [0, 128, 0, 128, 0, 0, 0, 0, 0]
    for path in (photos / "masks").rglob("*.png"):
        mask = Image.fromarray(2 - np.array(Image.open(path)))
        mask.putpalette(colours)
        mask.save(path)
    swap = "data.dataset.label_map={0: 2, 2: 0}"
    for setting, severity in (("data.dataset.palette=null", WARNING), ("data.dataset.palette=voc", ERROR)):
        found = [finding for finding in check(photos, setting)[0] if "colours are those of other" in finding.what]
        assert [finding.severity for finding in found] == [severity, severity]
        assert f"set '{swap}'" in found[0].advice
        findings, checked = check(photos, setting, swap)
        assert findings == []
        cars = sum(int((mask_of(seed) == 2).sum()) for seed in range(6))
        assert report.summarize(checked.splits[0])["classes"]["car"]["pixels"] == cars
    (photos / "masks/train/0.png").write_bytes((photos / "masks/train/1.png").read_bytes())
    mask = Image.fromarray(mask_of(0))
    mask.putpalette(colours[3:6] + colours[:3] + colours[6:])
    mask.save(photos / "masks/train/0.png")
    found = next(finding for finding in check(photos)[0] if "colours are those of other" in finding.what)
    assert "if the colours are right, save the masks as RGB (mogrify" in found.advice


def test_class_files(photos):
    (photos / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\ntree,0,128,0\ncar,128,0,0\n")
    check_finding(photos, WARNING, "class file that is not used: ground, tree, car", ["class_dict.csv"])
    assert check(photos, "data.dataset.classes=class_dict.csv")[0] == []
    (photos / "class_dict.csv").unlink()
    (photos / "images/_classes.csv").write_text("Pixel Value, Class\n0, ground\n1, car\n2, tree\n")
    found = check_finding(photos, WARNING, "class file that is not used: ground, car, tree", ["images/_classes.csv"])
    assert found.advice == "if it belongs to the masks, set data.dataset.classes=images/_classes.csv"
    (photos / "labelmap.txt").write_text("tree:1::\n")
    check_finding(photos, NOTE, "class file that cannot be read", ["labelmap.txt"])


def test_binary_masks(photos):
    change_masks(photos, lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))
    two = "data.dataset.classes=[ground,car]"
    findings, _ = check(photos, two)
    assert "data.dataset.binary=true" in next(finding for finding in findings if "0 and 255" in finding.what).advice
    for cure in ("data.dataset.binary=true", "data.dataset.label_map={255: 1}"):
        findings, found = check(photos, two, cure)
        assert not [finding for finding in findings if "0 and 255" in finding.what]
        assert found.splits[0].masks[0][1].counts.tolist() == np.bincount((mask_of(0) > 0).ravel()).tolist()
    put_mask(photos, "train/0.png", np.minimum(mask_of(0), 1))
    others = [f"masks/train/{k}.png" for k in range(1, 6)]
    check_finding(photos, WARNING, "beside masks of class 1", others, two)


def test_jpegs_of_several_pictures(photos):
    (photos / "images/train/0.png").unlink()
    first, second = (Image.fromarray(photo(k)) for k in (0, 9))
    first.save(photos / "images/train/0.jpg", "MPO", save_all=True, append_images=[second])
    check_finding(photos, WARNING, "JPEG of several pictures", ["images/train/0.jpg"])


def test_the_settings_without_an_absent_class_are_right(photos):
    change_masks(photos, lambda mask: np.where(mask == 1, 0, mask).astype(np.uint8))
    train, val = (finding for finding in check(photos)[0] if finding.what == "no pixel of tree")
    typed = "'data.dataset.classes=[ground,car]' 'data.dataset.label_map={2: 1}'"
    assert [finding.advice.partition("if no image shows it ")[2] for finding in (train, val)] == [typed, typed]
    findings, found = check(photos, *typed.strip("'").split("' '"))
    assert [finding.what for finding in findings if "no pixel" in finding.what or finding.severity == ERROR] == []
    assert [split.dataset.classes for split in found.splits] == [("ground", "car")] * 2


def test_contents(photos):
    put_mask(photos, "train/0.png", np.full(SIZE, 255))
    put_mask(photos, "train/1.png", np.full(SIZE, 1))
    Image.new("RGB", SIZE[::-1]).save(photos / "images/train/2.png")
    Image.new("L", SIZE[::-1], 9).save(photos / "images/train/3.png")
    check_finding(photos, WARNING, "void only", ["masks/train/0.png"])
    check_finding(photos, NOTE, "single class", ["masks/train/1.png"])
    check_finding(photos, WARNING, "single colour", ["images/train/2.png", "images/train/3.png"])
    check_finding(photos, NOTE, "mode L", ["images/train/3.png"])
    change_masks(photos, np.zeros_like)
    findings, _ = check(photos)
    assert [f.severity for f in findings if "contain ground only" in f.what] == [WARNING, WARNING]
    absent = [f for f in findings if f.what == "no pixel of tree, car"]
    assert [f.severity for f in absent] == [WARNING, NOTE]
    assert absent[0].advice.endswith(": type data.dataset.label_map={...} with its mask values")
    assert absent[1].advice.endswith(": type data.val_split=... that shows it"), "a single class cannot be trained"
    void = "data.dataset.label_map={other: ignore}"
    assert [f.severity for f in check(photos, void)[0] if "are void only" in f.what] == [ERROR, ERROR]


@pytest.mark.parametrize("colours", [False, True])
def test_a_class_called_void(photos, colours):
    """It has a row beside that of the void; typed back, the advice makes its pixels void."""
    put_mask(photos, "train/0.png", np.full(SIZE, 255))
    put_lines(photos / "classes.csv", "name,r,g,b", "void,1,2,3", "tree,200,9,8", "car,0,0,255", "no class,0,255,0")
    words: tuple[str, ...] = ("data.dataset.classes=classes.csv",)
    if colours:
        palette = np.array([(1, 2, 3), (200, 9, 8), (0, 0, 255)] + [(0, 255, 0)] * 253, np.uint8)
        change_masks(photos, lambda mask: palette[mask])
    found = check_finding(photos, WARNING, "void is trained and counted like any class", [], *words)
    key = "1-2-3" if colours else "0"
    assert found.advice == f"if its pixels are not to count, set 'data.dataset.label_map={{{key}: ignore}}'"
    counted, typed = (
        report.summarize(check(photos, *more)[1].splits[0])["classes"]
        for more in (words, (*words, found.advice.split("'")[1]))
    )
    assert counted["void"]["pixels"] > 0
    assert counted["(void)"]["pixels"] == (0 if colours else SIZE[0] * SIZE[1])
    assert typed["void"]["pixels"] == 0
    assert typed["(void)"]["pixels"] == counted["(void)"]["pixels"] + counted["void"]["pixels"]
    assert sum(row["share"] for row in typed.values()) == pytest.approx(1)
    again, _ = check(photos, *words, found.advice.split("'")[1])
    assert not [finding for finding in again if "void is trained" in finding.what or "of void" in finding.what]


def test_orientations(photos):
    for seed, orientation in ((0, 6), (1, 3)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(photo(seed)).save(photos / f"images/train/{seed}.png", exif=exif)
    check_finding(photos, ERROR, "rotated by its EXIF orientation", ["images/train/0.png"])
    check_finding(photos, WARNING, "rotated or mirrored", ["images/train/1.png"])


def test_duplicates(photos):
    images = photos / "images"
    (images / "train/1.png").write_bytes((images / "train/0.png").read_bytes())
    (images / "val/10.png").write_bytes((images / "train/2.png").read_bytes())
    Image.fromarray(photo(3)).resize((32, 24)).resize(SIZE[::-1]).save(images / "val/11.png")
    Image.fromarray(photo(4) // 2 + 60).save(images / "train/5.png")
    check_finding(photos, WARNING, "with another mask", ["images/train/1.png"])
    check_finding(photos, ERROR, "that is in train too", ["images/val/10.png"])
    check_finding(photos, WARNING, "almost like one of train", ["images/val/11.png"])
    check_finding(photos, NOTE, "almost like an earlier one", ["images/train/5.png"])
    (photos / "masks/train/1.png").write_bytes((photos / "masks/train/0.png").read_bytes())
    check_finding(photos, WARNING, "with the same mask", ["images/train/1.png"])


def test_splits(photos):
    (photos / "images/extra").mkdir()
    findings, found = check(photos)
    assert [finding.severity for finding in findings] == [NOTE]
    assert [split.name for split in found.splits] == ["train", "val"]
    assert "extra" in found.left_out
    findings, found = check(photos, "splits=[val,extra]")
    assert [split.name for split in found.splits] == ["val"]
    assert [(f.split, f.what) for f in findings if f.severity == ERROR] == [("extra", "split that cannot be opened")]
    same = "data.val_split=train"
    assert check_finding(photos, WARNING, "on the images of training", [], same).split == "train"
    for kind in ("images", "masks"):
        (photos / kind / "val").rename(photos / kind / "test")
    (photos / "images/test/10.png").write_bytes((photos / "images/train/2.png").read_bytes())
    assert check_finding(photos, ERROR, "is in train too", None, same).split == "train + test"


def test_a_missing_mask_of_a_release(photos):
    (photos / "masks/train/0.png").unlink()
    for data, advice in (
        (FOLDER, "data.dataset.mask_suffix"),
        (("data=camvid",), "bring its mask, or take the image out"),
    ):
        (found,) = [each for each in check(photos, data=data)[0] if each.what == "image without a mask"]
        assert found.files == [str(photos / "images/train/0.png")]
        assert advice in found.advice


def test_split_without_masks(photos):
    for seed in range(6):
        (photos / f"masks/train/{seed}.png").rename(photos / f"masks/train/{seed}.jpg")
    advice = check_finding(photos, ERROR, "cannot be opened", []).advice
    assert "is empty: JPEG changes the values; save the masks as PNG; " in advice
    assert f"image without a mask: {photos / 'images/train/0.png'} and 5 more" in advice
    assert f"mask stored as JPEG: {photos / 'masks/train/0.jpg'} and 5 more" in advice
