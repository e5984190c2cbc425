"""Intervals against a bootstrap written out image by image, and errors near boundaries on a picture made by hand."""

import numpy as np
import pytest
import torch

from segframe.analysis.bootstrap import intervals, resample
from segframe.analysis.boundaries import BoundaryErrors, near_boundaries
from segframe.inference.image_counts import ImageCounts
from segframe.inference.metrics import compute_metrics

CLASSES = ("a", "b", "c")


def matrices(images, seed=0):
    """Confusion matrices in which b is rare and c never predicted."""
    generator = np.random.default_rng(seed)
    found = generator.integers(0, 50, (images, 3, 3))
    found[:, 1] *= generator.random((images, 1)) < 0.3
    found[:, :, 2] = 0
    return list(found)


def counts_of(found, seed=5):
    """The counts of images with these confusion matrices, and some of their boundaries."""
    generator = np.random.default_rng(seed)
    parts = [[matrix.diagonal(), matrix.sum(1), matrix.sum(0)] for matrix in found]
    whole = generator.integers(5, 20, (4, len(found), 3))
    inner = (whole * generator.random(whole.shape)).astype(int)
    bands = [np.minimum(inner[0], inner[1]), whole[0], whole[1]]
    contours = [whole[2], inner[2], whole[3], inner[3]]
    return ImageCounts(*(np.stack(part) for part in zip(*parts, strict=True)), *bands, *contours)


def test_intervals_equal_an_independent_bootstrap():
    found = matrices(30)
    names = ("miou", "pixel_accuracy", "mean_accuracy", "fwiou", "iou/a", "iou/b", "iou/c")
    values = {name: [] for name in names}
    generator = np.random.default_rng(99)
    for _ in range(4000):
        drawn = np.sum([found[k] for k in generator.integers(0, 30, 30)], axis=0)
        for name, value in compute_metrics(torch.from_numpy(drawn), CLASSES, "x").items():
            values[name.removeprefix("x/")].append(value)
    ours = intervals(counts_of(found), CLASSES, resamples=4000)
    for name in names:
        low, high = np.nanquantile(values[name], [0.025, 0.975])
        assert ours[name] == pytest.approx((low, high), abs=0.08 * (high - low) + 1e-12), name
        assert ours[name][0] < ours[name][1] or name == "iou/c"


def test_intervals_of_boundaries_equal_an_independent_bootstrap():
    counts = counts_of(matrices(25))
    generator = np.random.default_rng(7)
    ious, fs = [], []
    for _ in range(4000):
        chosen = generator.integers(0, 25, 25)
        sums = ImageCounts(*(part[chosen].sum(0) for part in counts))
        ious.append((sums.band_correct / (sums.band_truth + sums.band_predicted - sums.band_correct))[1])
        precision, recall = sums.contour_right / sums.contour_predicted, sums.contour_found / sums.contour_truth
        fs.append((2 * precision * recall / (precision + recall)).mean())
    ours = intervals(counts, CLASSES, resamples=4000)
    for name, values in {"boundary_iou/b": ious, "mean_boundary_f": fs}.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert ours[name] == pytest.approx((low, high), abs=0.08 * (high - low)), name


def test_one_image_or_equal_images_vary_by_nothing():
    matrix = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    for images in (1, 7):
        found = intervals(counts_of([matrix] * images), CLASSES, resamples=100)
        assert found["iou/a"] == pytest.approx((8 / 11, 8 / 11))
        assert found["miou"] == pytest.approx(((8 / 11 + 9 / 12) / 2,) * 2)
        assert np.isnan(found["iou/c"]).all()


def test_means_are_over_the_same_classes_in_every_draw():
    """c is in one of 40 images: draws without it would raise the mean from 0.57 to 0.81."""
    images = [np.diag([80, 0, 0]) + np.array([[0, 19 + k % 3, 0], [0, 80, 0], [0, 0, 0]]) for k in range(40)]
    images[0] = images[0] + np.array([[0, 0, 0], [0, 0, 0], [0, 19, 1]])
    counts = counts_of(images)
    low, high = intervals(counts, CLASSES)["miou"]
    usual = counts.sums(np.ones((1, 40))).metrics(CLASSES)
    assert low < usual["miou"].item() < high < 0.58
    assert intervals(counts, CLASSES)["mean_accuracy"][1] < usual["mean_accuracy"].item() + 0.01


def test_draws_are_pairs_and_their_number_changes_none_before():
    first, second = (counts_of(matrices(20, seed)) for seed in (1, 2))
    more = resample(first, CLASSES, 600)["miou"]
    assert (resample(first, CLASSES, 250)["miou"] == more[:250]).all()
    assert len(more) == 600
    same = resample(ImageCounts(*(part[:, [0, 1, 2]] for part in first)), CLASSES, 600)["miou"]
    assert (same == more).all()
    assert not (resample(second, CLASSES, 600)["miou"] == more).any()


def test_errors_near_boundaries():
    truth = np.zeros((7, 10), np.uint8)
    truth[:, 5:] = 1
    truth[6, 9] = 255
    # Columns 4 and 5 are within one pixel of the boundary between them, and the three neighbours of the void.
    expected = np.zeros((7, 10), bool)
    expected[:, 4:6] = True
    expected[5:, 8:] = True
    assert (near_boundaries(truth, 1) == expected).all()
    assert near_boundaries(truth, 2)[:, 3:7].all()
    assert not near_boundaries(truth, 2)[:, :3].any()
    assert near_boundaries(truth, 9).all()

    prediction = truth.copy()
    prediction[0, 4] = 1  # at the boundary
    prediction[0:2, 0] = 1  # inside
    prediction[5, 8] = 0  # beside the void
    prediction[6, 9] = 0  # void: not counted
    errors = BoundaryErrors(2, 1)
    for _ in range(2):
        errors.update(prediction, truth)
    assert errors.pixels.tolist() == [[14, 2 * (7 + 3)], [56, 2 * (28 - 4)]]
    assert errors.wrong.tolist() == [[2, 2], [4, 0]]
