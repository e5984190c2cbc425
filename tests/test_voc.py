"""VOC and SBD: layouts, splits, downloads."""

import numpy as np
import pytest
from scipy.io import savemat
from test_data import SIZE, complaint, names, put_image, put_lines, put_mask

from segframe.data.voc import VOC


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
