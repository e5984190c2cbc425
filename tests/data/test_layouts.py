"""Layouts of folders, endings of names, black and white masks."""

import os

import numpy as np
import pytest
from dataset_files import check_error, put_image, put_lines, put_mask
from PIL import Image

from segframe.data import Folder
from segframe.data.binary_masks import threshold
from segframe.data.file_listing import UNUSED_MASK, collect_problems
from segframe.data.image_io import read_raw

TWO = {"classes": ["x", "y"]}


def put_layout(root, image, mask, splits=("train", "val")):
    """Three images and masks of each split; the mask of the first image is all 0, that of the others all 1."""
    for split in splits:
        for k in range(3):
            put_image(root / image.format(split=split, k=k))
            put_mask(root / mask.format(split=split, k=k), min(k, 1))


def read(root, split="train", **settings):
    """Names and classes of a split's samples."""
    dataset = Folder(root, split, **TWO | settings)
    return [(item["name"], int(item["mask"].max())) for item in dataset]


READ = [("0", 0), ("1", 1), ("2", 1)]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("CamVid/{split}/{k}.JPG", "CamVid/{split}_labels/{k}_L.TIF"),
        ("images/{split}/{k}.jpeg", "annotations/{split}/{k}.bmp"),
        ("leftImg8bit/{split}/ulm/{k}_leftImg8bit.png", "gtFine/{split}/ulm/{k}_gtFine_labelIds.png"),
    ],
)
def test_layouts_that_are_found(tmp_path, image, mask):
    put_layout(tmp_path, image, mask)
    (tmp_path / "readme.txt").touch()
    (tmp_path / "__MACOSX").mkdir()
    assert read(tmp_path) == READ
    assert Folder(tmp_path, "val", **TWO).splits == ("train", "val")


def test_layouts_that_are_set(tmp_path):
    put_layout(tmp_path, "rgb/{split}/a b/{k}_rgb.jpg", "ids/{split}/a b/{k}_ids.png")
    put_layout(tmp_path, "rgb/{split}/c/{k}_rgb.jpg", "ids/{split}/c/{k}_ids.png")
    put_layout(tmp_path, "{split}_rgb/{k}.jpg", "{split}_ids/{k}.png")
    both = {"images": "rgb", "masks": "ids", "image_suffix": "_rgb", "mask_suffix": "_ids"}
    assert [name for name, _ in read(tmp_path, **both)] == ["a b/0", "a b/1", "a b/2", "c/0", "c/1", "c/2"]
    assert read(tmp_path, images="{split}_rgb", masks="{split}_ids") == READ
    put_layout(tmp_path, "all/{split}/{k}.jpg", "all/{split}/{k}_mask.png")
    assert read(tmp_path, images="all", masks="all", mask_suffix="_mask")[0] == ("0", 0)
    assert read(tmp_path, images="train_rgb", masks="train_ids", val_ratio=1e-9) == READ
    check_error(lambda: read(tmp_path, images="{split}_rgb", masks="{split}_ids", val_ratio=0.5), "must be null")


def test_links_to_folders(tmp_path):
    put_layout(tmp_path / "disk", "images/{split}/city/{k}.png", "masks/{split}/city/{k}.png")
    (tmp_path / "data").mkdir()
    for kind in ("images", "masks"):
        os.symlink(tmp_path / "disk" / kind, tmp_path / "data" / kind)
        os.symlink(tmp_path / "disk" / kind, tmp_path / "disk" / kind / "train/loop")
    assert read(tmp_path / "data") == READ


def test_one_folder_of_masks_for_all_splits(tmp_path):
    put_layout(tmp_path, "images/{split}/{split}{k}.png", "masks/{split}{k}.png")
    with collect_problems() as problems:
        assert [name for name, _ in read(tmp_path, "val")] == ["val0", "val1", "val2"]
    assert problems == []


def test_images_and_masks_that_differ_in_the_suffix_alone(tmp_path):
    put_layout(tmp_path, "all/{k}.jpg", "all/{k}.png", ("train",))
    settings = {"images": "all", "masks": "all", "val_ratio": 1e-9}
    check_error(lambda: read(tmp_path, **settings), "mask_suffix=_mask", "image_suffix=.jpg mask_suffix=.png")
    assert read(tmp_path, **settings, image_suffix=".jpg", mask_suffix=".png") == READ


@pytest.mark.parametrize(
    ("layouts", "parts"),
    [
        ([("pictures/{k}.jpg", "labels/{k}.png")], ["images=pictures data.dataset.masks=labels data.dataset.val"]),
        (
            [("a/{split}/{k}.jpg", "gt/{split}/{k}.png"), ("a/{split}/{k}.jpg", "gt_colour/{split}/{k}.png")],
            ["images=a/{split} data.dataset.masks=gt/{split} or", "masks=gt_colour/{split}"],
        ),
        ([("{split}/{k}.jpg", "{split}/{k}_mask.png")], ["masks={split} data.dataset.mask_suffix=_mask"]),
        ([("{k}.jpg", "{k}_mask.png")], ["images=. data.dataset.masks=. data.dataset.mask_suffix=_mask data.dataset."]),
        ([("a/{k}.jpg", "b/{k}.png")], ["no folder images/{split}", "a (3 files), b (3 files)", "images=... and"]),
        ([("training/images/{k}.jpg", "training/masks/{k}.png")], ["it has training; type data.train_split=training"]),
        (
            [("images/train/{k}.jpg", "masks/train/{k}_mask_0.png"), ("b/{k}.jpg", "masks/train/{k}_mask_1.png")],
            ["several files for each image", "mask_suffix=_mask_0", "one mask with all classes"],
        ),
        (
            [("images/train/{k}.jpg", "masks/train/{k}_0.png"), ("b/{k}.jpg", "masks/train/{k}_1.png")],
            ["'0' has no mask (3 of 3 have none)", "0_0.png, 0_1.png", "one mask with all classes"],
        ),
        ([("images/train/A{k}.jpg", "masks/train/a{k}.png")], ["'A0' has no mask", "holds a0.png", "upper and lower"]),
    ],
)
def test_layouts_that_are_refused(tmp_path, layouts, parts):
    for image, mask in layouts:
        put_layout(tmp_path, image, mask)
    check_error(lambda: read(tmp_path), *parts)


def test_masks_of_other_splits_are_no_strays_in_lists(tmp_path):
    for name in ("a", "b", "c"):
        put_image(tmp_path / f"images/{name}.tif")
        put_mask(tmp_path / f"masks/{name}_manual1.gif")
        put_lines(tmp_path / f"{name}.txt", f"images/{name}.tif masks/{name}_manual1.gif")
    with collect_problems() as problems:
        Folder(tmp_path, "train", **TWO, splits={"train": "a.txt", "val": "b.txt"})
    assert problems == []
    put_layout(tmp_path / "other", "images/{split}/{k}.png", "masks/{split}/{k}.png")
    put_mask(tmp_path / "other/masks/train/9.png")
    with collect_problems() as problems:
        Folder(tmp_path / "other", "train", **TWO)
    assert problems == [(UNUSED_MASK, str(tmp_path / "other/masks/train/9.png"))]


def scene():
    """A mask of 0 and 1 with an object of 12 % of the pixels."""
    mask = np.zeros((64, 80), np.uint8)
    mask[10:34, 20:46] = 1
    return mask


@pytest.mark.parametrize(
    ("suffix", "save"),
    [
        (".jpg", lambda mask: Image.fromarray(255 * mask)),
        (".jpg", lambda mask: Image.fromarray(255 * mask).convert("RGB")),
        (".png", lambda mask: Image.fromarray(255 * mask).convert("RGB")),
        (".png", lambda mask: Image.fromarray(255 * mask)),
        (".png", lambda mask: Image.fromarray(mask)),
        (".png", lambda mask: Image.fromarray(mask.astype(bool))),
        (".tif", lambda mask: Image.fromarray(65535 * mask.astype(np.uint16))),
    ],
)
def test_black_and_white_masks(tmp_path, suffix, save):
    """Every way to store a mask of two classes gives the same classes."""
    for part in ("train", "val"):
        put_image(tmp_path / f"images/{part}/a.jpg", scene().shape)
        path = tmp_path / f"masks/{part}/a{suffix}"
        path.parent.mkdir(parents=True)
        save(scene()).save(path)
    for binary in (True, None) if suffix == ".jpg" else (True,):
        assert (Folder(tmp_path, "train", **TWO, binary=binary).read_mask(0) == scene()).all()


def test_masks_that_are_not_black_and_white(tmp_path):
    rng = np.random.default_rng(0)
    photo = rng.integers(30, 220, (64, 80), dtype=np.uint8)
    for name, pixels, part in (
        ("photo.jpg", photo, "are grey"),
        ("colours.png", np.stack([255 * scene(), 0 * scene(), 0 * scene()], axis=2), "holds colours"),
        ("dark.png", 38 * scene(), "values up to 38"),
        ("indices.jpg", 2 * scene(), "values up to"),
    ):
        Image.fromarray(pixels).save(tmp_path / name, quality=95)
        check_error(lambda path=tmp_path / name: threshold(read_raw(path), path), name, part)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "none.png")
    assert not threshold(np.zeros((4, 4), np.uint8), tmp_path / "none.png").any()
    inverted = Image.fromarray(scene())
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    inverted.save(tmp_path / "inverted.png")
    check_error(lambda: threshold(scene(), tmp_path / "inverted.png"), "inverted.png", "label_map={0: 1, 1: 0}")


@pytest.mark.parametrize("settings", [{"classes": ["a", "b", "c"]}, {"binary": False}, {"label_map": {255: 1}}])
def test_jpeg_masks_are_refused(tmp_path, settings):
    put_layout(tmp_path, "images/{split}/{k}.png", "masks/{split}/{k}.jpg")
    cure = "save the masks as PNG" + ", or type data.dataset.binary=true" * ("classes" not in settings)
    check_error(lambda: read(tmp_path, **settings), "'0' has no mask", "holds 0.jpg, and JPEG changes", cure)


def test_binary_needs_two_classes(tmp_path):
    put_layout(tmp_path, "images/{split}/{k}.png", "masks/{split}/{k}.png")
    for settings in ({"classes": ["a", "b", "c"]}, {"label_map": {255: 1}}):
        check_error(lambda settings=settings: read(tmp_path, binary=True, **settings), "binary=true: it needs two")
