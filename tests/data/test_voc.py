"""VOC and SBD: layouts, splits, downloads."""

from contextlib import suppress

import numpy as np
import pytest
from dataset_files import check_error, damaged_copies, names, put_lines, put_mask, sbd_tree, voc_tree
from scipy.io import savemat
from scipy.sparse import csc_array

from segframe.data.datasets.voc import VOC
from segframe.errors import UserError


@pytest.mark.parametrize("home", ["VOCdevkit/VOC2012", "VOC2012", ".", "VOCtrainval_11-May-2012/VOCdevkit/VOC2012"])
def test_voc_roots(tmp_path, home):
    voc_tree(tmp_path / home)
    assert names(VOC(tmp_path, "train")) == ["a", "b"]
    assert names(VOC(tmp_path, "trainval")) == ["a", "b", "v"]
    assert (VOC(tmp_path, "val")[0]["mask"] == 1).all()


def values(dataset):
    return {item["name"]: item["mask"].unique().tolist() for item in dataset}


@pytest.mark.parametrize(("root", "sbd"), [(".", "sbd"), ("VOCdevkit/VOC2012", "VOCdevkit/dataset")])
def test_trainaug_from_sbd_has_no_image_of_val(tmp_path, root, sbd):
    voc_tree(tmp_path / "VOCdevkit/VOC2012")
    sbd_tree(tmp_path / sbd)
    assert values(VOC(tmp_path / root, "trainaug")) == {"a": [1], "b": [1], "s": [7], "t": [7]}


def test_values_that_are_no_class(tmp_path):
    voc_tree(tmp_path)
    put_mask(tmp_path / "SegmentationClass/v.png", 21)
    check_error(lambda: VOC(tmp_path, "val").read_mask(0), "v.png holds the value 21", "fixed", "data=folder")


def test_fcns_splits(tmp_path):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    assert values(VOC(tmp_path, "sbdtrain")) == {"s": [7], "v": [7]}
    check_error(lambda: VOC(tmp_path, "seg11valid"), "seg11valid.txt of the FCN release")
    put_lines(tmp_path / "ImageSets/Segmentation/seg11valid.txt", "v")
    assert names(VOC(tmp_path, "seg11valid")) == ["v"]


def test_trainaug_from_ready_masks(tmp_path):
    voc_tree(tmp_path)
    for name in "abvst":
        put_mask(tmp_path / "SegmentationClassAug" / f"{name}.png", 3)
    assert values(VOC(tmp_path, "trainaug")) == {"a": [1], "b": [1], "s": [3], "t": [3]}


def test_voc_mistakes(tmp_path):
    check_error(lambda: VOC(tmp_path, "train"), tmp_path, "VOCtrainval_11-May-2012.tar", "data.download=true")
    voc_tree(tmp_path)
    check_error(lambda: VOC(tmp_path, "trian"), "VOC has no split 'trian'", "trainaug")
    check_error(lambda: VOC(tmp_path, "trainaug"), "benchmark.tgz", "SegmentationClassAug")
    put_lines(tmp_path / "ImageSets/Segmentation/train.txt", "a", "ghost")
    check_error(lambda: VOC(tmp_path, "train"), "VOC train", "'ghost' has no image", "1 of 2")
    put_lines(tmp_path / "ImageSets/Segmentation/train.txt", "")
    check_error(lambda: VOC(tmp_path, "train"), "Segmentation/train.txt lists nothing", "bring the whole file")
    (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
    check_error(lambda: VOC(tmp_path, "train"), "train.txt does not exist")


def put_mat(path, segmentation):
    """A file like those of SBD, with borders and more beside the mask."""
    borders = np.array([csc_array(np.eye(4, dtype=bool)), np.zeros((0, 0))], object)[:, None]
    fields = {"Boundaries": borders, "Segmentation": segmentation, "CategoriesPresent": np.array([7, 15], np.uint8)}
    savemat(path, {"other": np.arange(9), "GTcls": fields}, do_compression=True)


def test_sbd_masks(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (33, 47), np.uint8)
    put_mat(tmp_path / "m.mat", values)
    found = VOC.load_mask(None, tmp_path / "m.mat")
    assert found.dtype == np.uint8
    assert found.flags.writeable
    assert np.array_equal(found, values)


def test_other_mat_files(tmp_path):
    path = tmp_path / "m.mat"
    for values in (np.full((5, 5), 1.0), np.full((5, 5, 5), 1, np.uint8), {"a": 1}):
        put_mat(path, values)
        check_error(lambda: VOC.load_mask(None, path), path, "its Segmentation is")
    for contents in ({"a": np.eye(3)}, {"GTcls": {"Segment": np.eye(3)}}):
        savemat(path, contents)
        check_error(lambda: VOC.load_mask(None, path), path, "damaged")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
    check_error(lambda: VOC.load_mask(None, path), path, "damaged")
    put_mat(path, np.random.default_rng(0).integers(0, 255, (1200, 1000), np.uint8))
    check_error(lambda: VOC.load_mask(None, path), path, "no SBD mask has more than")


def test_damaged_sbd_files(tmp_path):
    put_mat(tmp_path / "m.mat", np.full((20, 30), 7, np.uint8))
    for data in damaged_copies((tmp_path / "m.mat").read_bytes()):
        (tmp_path / "d.mat").write_bytes(data)
        with suppress(UserError):
            assert VOC.load_mask(None, tmp_path / "d.mat").dtype == np.uint8
