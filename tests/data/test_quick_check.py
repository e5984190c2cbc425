"""The look at a few samples before a training: what would end it, what would spoil it."""

import numpy as np
from conftest import SIZE, mask_of
from dataset_files import check_error
from PIL import Image

from segframe.data import Folder
from segframe.data.inspection import quick_check


def datasets(photos, **settings):
    settings = {"classes": ["ground", "tree", "car"]} | settings
    return Folder(photos, "train", **settings), Folder(photos, "val", **settings)


def test_sound_data_need_no_word(photos):
    assert quick_check.quick_check(*datasets(photos)) == []


def test_what_would_end_a_training_is_raised(photos):
    Image.fromarray(mask_of(0) + 1).save(photos / "masks/val/11.png")
    check_error(
        lambda: quick_check.quick_check(*datasets(photos)),
        "11.png",
        "val",
        "label_map={3: ignore}",
        "scripts/check_data.py",
    )
    (photos / "images/train/5.png").write_bytes(b"")
    check_error(lambda: quick_check.quick_check(*datasets(photos)), "5.png", "cannot read", "scripts/check_data.py")


def test_binary_masks_without_a_label_map_are_told(photos):
    for path in (photos / "masks").rglob("*.png"):
        Image.fromarray(np.where(mask_of(0) > 0, 255, 0).astype(np.uint8)).save(path)
    two = {"classes": ["ground", "car"]}
    check_error(lambda: quick_check.quick_check(*datasets(photos, **two)), "0.png", "label_map={255: 1}")
    assert quick_check.quick_check(*datasets(photos, label_map={255: 1}, **two)) == []


def test_what_would_spoil_a_training_is_told(photos):
    (photos / "images/val/10.png").write_bytes((photos / "images/train/2.png").read_bytes())
    for path in (photos / "masks/train").iterdir():
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    for path in (photos / "masks/val").iterdir():
        Image.fromarray(np.where(mask_of(0) > 1, 1, 255).astype(np.uint8)).save(path)
    told = quick_check.quick_check(*datasets(photos))
    assert [line.partition(",")[0] for line in told] == [
        "train: each of 6 masks holds ground alone",
        "val: each of 3 masks holds tree alone",
        "val: 67 % of the pixels are void: void counts nowhere: is data.dataset.label_map right",
        "val: at least 1 of 3 images are in train too",
        quick_check.ALL.partition(",")[0],
    ]


def test_one_split_for_both_is_told(photos):
    train, _ = datasets(photos)
    told = (
        "train: validation is on the images of training, so figures are too good: set data.val_split to another split"
    )
    assert quick_check.quick_check(train, train) == [told, quick_check.ALL]


def test_a_training_tells(run, photos):
    (photos / "images/val/10.png").write_bytes((photos / "images/train/2.png").read_bytes())
    data = ("data=folder", "data.root=photos", "data.dataset.classes=[ground,tree,car]")
    small = ("backbone=resnet18", "head=fcn", "data.crop_size=32", "data.batch_size=2", "data.num_workers=0")
    common = (*data, *small, "trainer.accelerator=cpu", "trainer.max_steps=1", "callbacks=none", "logger=none")
    result = run("train.py", *common, "data.weights=null", "output_dir=first")
    assert result.code == 0, result.out
    assert "val: at least 1 of 3 images are in train too, as photos/images/val/10.png" in result.out
