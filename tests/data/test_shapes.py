"""Shapes: reproducible images, all classes present, void around the figures."""

import cv2
import numpy as np
from dataset_files import check_error

from segframe.data import Shapes


def test_images_depend_on_split_and_index_only():
    first = Shapes(None, "train", seed=1)
    expected = [first.read(index) for index in range(3)]
    first.read(0)[0][:] = 0
    assert expected[0][0].any()
    np.random.seed(5)
    second = Shapes("anywhere", "train", seed=2, num_images={"train": 3})
    for index in (2, 0, 1):
        for first_part, second_part in zip(expected[index], second.read(index), strict=True):
            assert (first_part == second_part).all()
    assert not (Shapes(None, "val").read(0)[1] == expected[0][1]).all()


def test_every_class_occurs_and_stars_are_rare():
    dataset = Shapes(None, "train", size=64, num_images={"train": 200})
    seen = np.zeros(256, int)
    for index in range(len(dataset)):
        seen[np.unique(dataset.read_mask(index))] += 1
    assert (seen[: len(dataset.classes)] > 0).all()
    assert seen[len(dataset.classes) : 255].sum() == 0
    assert 6 <= seen[dataset.classes.index("star")] <= 40
    assert seen[1:7].min() > 60


def test_a_void_border_separates_classes():
    mask = Shapes(None, "train").read_mask(4)
    kernel = np.ones((2, 2), np.uint8)
    labels = [label for label in np.unique(mask) if label != 255]
    grown = sum(cv2.dilate((mask == label).astype(np.uint8), kernel) for label in labels)
    assert len(labels) > 2
    assert grown.max() == 1
    assert 0.005 < (mask == 255).mean() < 0.2


def test_mistakes():
    check_error(lambda: Shapes(None, "train", size=8), "between 32 and 4096")
    check_error(lambda: Shapes(None, "val", num_images={"val": 10**9}), "num_images.val=1000000000: it must be between")
    check_error(lambda: Shapes(None, "val", num_images={"val": 0}), "empty: data.dataset.num_images")
    check_error(lambda: Shapes(None, "trainval"), "Shapes has no split 'trainval': it has train, val, test")
