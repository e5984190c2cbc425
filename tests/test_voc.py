"""VOC and SBD: layouts, splits, downloads."""

from contextlib import suppress

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array
from test_data import SIZE, complaint, names, put_image, put_lines, put_mask

from segframe.data.datasets.voc import VOC
from segframe.errors import UserError


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


def test_values_that_are_no_class(tmp_path):
    voc_tree(tmp_path)
    put_mask(tmp_path / "SegmentationClass/v.png", 21)
    complaint(lambda: VOC(tmp_path, "val").read_mask(0), "v.png holds the value 21", "fixed", "data=folder")


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
    complaint(lambda: VOC(tmp_path, "train"), "Segmentation/train.txt lists nothing", "bring the whole file")
    (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
    complaint(lambda: VOC(tmp_path, "train"), "train.txt does not exist")


def put_mat(path, segmentation, **options):
    """As SBD's files are: borders and more beside the mask."""
    borders = np.array([csc_array(np.eye(4, dtype=bool)), np.zeros((0, 0))], object)[:, None]
    fields = {"Boundaries": borders, "Segmentation": segmentation, "CategoriesPresent": np.array([7, 15], np.uint8)}
    savemat(path, {"other": np.arange(9), "GTcls": fields}, **options)


def mask_of(path):
    return VOC.load_mask(None, path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (5, 1), (33, 47)])
def test_masks_of_sbd(tmp_path, size, compressed):
    values = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    for long_field_names in (False, True):
        put_mat(tmp_path / "m.mat", values, do_compression=compressed, long_field_names=long_field_names)
        found = mask_of(tmp_path / "m.mat")
        assert found.dtype == np.uint8
        assert found.flags.writeable
        assert np.array_equal(found, values)
        assert np.array_equal(found, loadmat(tmp_path / "m.mat")["GTcls"][0]["Segmentation"][0])


@pytest.mark.parametrize(
    "values",
    [
        np.full((5, 5), 1.0),
        np.full((5, 5), 70_000, np.int32),
        np.full((5, 5), -65_535, np.int32),
        np.full((5, 5), 1 << 25, np.uint32),
        np.full((5, 5), 1, np.int8),
        np.full((5, 5), 1 + 1j),
        np.full((5, 5, 5), 1, np.uint8),
        np.zeros((0, 5), np.uint8),
        np.array(["abc"]),
        {"a": 1},
    ],
)
def test_matlab_files_whose_mask_is_none(tmp_path, values):
    put_mat(tmp_path / "m.mat", values)
    complaint(lambda: mask_of(tmp_path / "m.mat"), tmp_path / "m.mat", "its Segmentation is")


def test_matlab_files_of_other_kinds(tmp_path):
    savemat(tmp_path / "m.mat", {"a": np.eye(3)})
    complaint(lambda: mask_of(tmp_path / "m.mat"), tmp_path / "m.mat", "no GTcls")
    savemat(tmp_path / "m.mat", {"GTcls": np.eye(3, dtype=np.uint8)})
    complaint(lambda: mask_of(tmp_path / "m.mat"), tmp_path / "m.mat", "no struct with a Segmentation")
    savemat(tmp_path / "m.mat", {"GTcls": {"Segment": np.eye(3, dtype=np.uint8)}})
    complaint(lambda: mask_of(tmp_path / "m.mat"), tmp_path / "m.mat", "no struct with a Segmentation")
    (tmp_path / "m.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
    complaint(lambda: mask_of(tmp_path / "m.mat"), tmp_path / "m.mat", "the format of MATLAB 5 to 7.2")


@pytest.mark.parametrize("compressed", [False, True])
def test_any_damage_to_a_mask_of_sbd_is_told_or_harmless(tmp_path, compressed):
    put_mat(tmp_path / "m.mat", np.full((20, 30), 7, np.uint8), do_compression=compressed)
    whole, rng = (tmp_path / "m.mat").read_bytes(), np.random.default_rng(0)
    noisy = [bytearray(whole) for _ in range(400)]
    for data in noisy:
        for at in rng.integers(len(data), size=rng.integers(1, 6)):
            data[at] = rng.integers(256)
    for data in (*(whole[:length] for length in range(0, len(whole), 7)), *noisy):
        (tmp_path / "d.mat").write_bytes(data)
        with suppress(UserError):
            assert mask_of(tmp_path / "d.mat").dtype == np.uint8


def test_damaged_matlab_files_are_named(tmp_path):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    (tmp_path / "sbd/cls/s.mat").write_text("short")
    dataset = VOC(tmp_path, "trainaug")
    complaint(lambda: dataset[names(dataset).index("s")], "s.mat", "damaged")
