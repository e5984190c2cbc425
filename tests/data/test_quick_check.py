"""The check of a sample of the files before a training."""

import numpy as np
from conftest import RUN, SIZE, mask_of
from dataset_files import check_error
from PIL import Image

from segframe.data import Folder
from segframe.data.inspection import quick_check


def check(photos, **settings):
    settings = {"classes": ["ground", "tree", "car"]} | settings
    return quick_check.quick_check(Folder(photos, "train", **settings), Folder(photos, "val", **settings))


def put_masks(photos, part, mask):
    for path in (photos / "masks" / part).iterdir():
        Image.fromarray(mask.astype(np.uint8)).save(path)


def copy_image(photos):
    (photos / "images/val/10.png").write_bytes((photos / "images/train/2.png").read_bytes())


def test_problems_that_would_stop_a_training_are_errors(photos):
    assert check(photos) == []
    Image.fromarray(mask_of(0) + 1).save(photos / "masks/val/11.png")
    check_error(lambda: check(photos), "11.png", "val", "label_map={3: ignore}", "scripts/check_data.py")
    (photos / "images/train/5.png").write_bytes(b"")
    check_error(lambda: check(photos), "5.png", "cannot read", "scripts/check_data.py")


def test_advice_holds_the_values_of_both_splits(photos):
    for part, value in (("train", 77), ("val", 99)):
        put_masks(photos, part, np.where(mask_of(0) == 1, value, mask_of(0)))
    check_error(lambda: check(photos), "train:", "'data.dataset.label_map={77: ignore, 99: ignore}'")


def test_masks_that_are_all_void(photos):
    """An error if all masks of a split were read, else a warning."""
    put_masks(photos, "val", np.full(SIZE, 255))
    check_error(lambda: check(photos), "val: all 3 masks are void only", "10.png", "check_data.py")
    for k in range(20, 20 + quick_check.SAMPLES):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8) + np.uint8(k)).save(photos / f"images/val/{k}.png")
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(photos / f"masks/val/{k}.png")
    assert any(line.startswith("val: all ") for line in check(photos))


def test_warnings(photos):
    copy_image(photos)
    put_masks(photos, "train", np.zeros(SIZE))
    put_masks(photos, "val", np.where(mask_of(0) > 1, 1, 255))
    assert [line.partition(",")[0] for line in check(photos)] == [
        "train: all 6 masks contain ground only",
        "val: all 3 masks contain tree only",
        "val: 67 % of the pixels are void: void is not trained on: set data.dataset.masks to the folder of the masks",
        "val: at least 1 of 3 images are in train too",
        quick_check.HINT.partition(",")[0],
    ]


def test_one_split_for_training_and_validation(photos):
    train = Folder(photos, "train", classes=["ground", "tree", "car"])
    warning, hint = quick_check.quick_check(train, train)
    assert warning.startswith("train: validation is on the images of training, so metrics are too high")
    assert hint == quick_check.HINT


def test_limits(photos, monkeypatch):
    (photos / "images/train/5.png").write_bytes(b"")
    monkeypatch.setattr(quick_check, "SAMPLES", 1)
    check(photos)
    monkeypatch.setattr(quick_check, "SECONDS", -1)
    assert check(photos) == []


def test_a_training_prints_the_warnings(run, photos):
    copy_image(photos)
    data = ("data=folder", "data.root=photos", "data.dataset.classes=[ground,tree,car]", "data.crop_size=32")
    small = ("backbone=resnet18", "head=fcn", "data.batch_size=2", "data.num_workers=0", "trainer.accelerator=cpu")
    result = run("train.py", *data, *small, *RUN, "trainer.max_steps=1", "data.weights=null", "output_dir=first")
    assert result.code == 0, result.out
    assert "val: at least 1 of 3 images are in train too, as photos/images/val/10.png" in result.out
