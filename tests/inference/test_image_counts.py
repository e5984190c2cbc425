"""Boundary IoU, boundary F, Dice, precision and recall against pictures made by hand and plain implementations."""

import numpy as np
import pytest
import torch

from segframe.errors import UserError
from segframe.inference.boundary_metrics import (
    boundary_band,
    check_distance,
    close_void_lines,
    contours,
    describe_distance,
    in_pixels,
)
from segframe.inference.image_counts import ImageCounts, SplitCounts
from segframe.inference.metrics import ConfusionMatrix, compute_metrics

CLASSES = ("a", "b", "c", "d")


def blobs(size, seed, void=0.0):
    """Labels of smooth regions, some void."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 4, (size[0] // 6 + 1, size[1] // 6 + 1)).astype(np.uint8)
    labels = coarse.repeat(6, 0).repeat(6, 1)[: size[0], : size[1]].copy()
    noise = generator.random(size) < 0.02
    labels[noise] = generator.integers(0, 4, noise.sum())
    labels[generator.random(size) < void] = 255
    return labels


def square_around(y, x, width, size):
    for i in range(y - width, y + width + 1):
        for j in range(x - width, x + width + 1):
            yield (i, j) if 0 <= i < size[0] and 0 <= j < size[1] else None


def plain_band(labels, k, width):
    """Pixels of class k within `width` pixels of what is not k: one class and one pixel at a time."""
    found = set()
    for y, x in zip(*np.nonzero(labels == k), strict=True):
        for place in square_around(y, x, width, labels.shape):
            if place is None or labels[place] not in (k, 255):
                found.add((int(y), int(x)))
    return found


def plain_contour(labels, k):
    found = []
    for y, x in zip(*np.nonzero(labels == k), strict=True):
        for i, j in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= i < labels.shape[0] and 0 <= j < labels.shape[1]
            if inside and labels[i, j] not in (k, 255):
                found.append((y, x))
                break
    return np.array(found, float).reshape(-1, 2)


def plain_boundaries(pairs, k, width, tolerance):
    """Boundary IoU and F of class k over images."""
    both = either = right = found = true = predicted = 0
    for prediction, truth in pairs:
        known = np.where(truth == 255, 255, prediction)
        ours, theirs = plain_band(known, k, width), plain_band(truth, k, width)
        both, either = both + len(ours & theirs), either + len(ours | theirs)
        mine, yours = plain_contour(known, k), plain_contour(truth, k)
        true, predicted = true + len(yours), predicted + len(mine)
        if len(mine) and len(yours):
            distances = np.hypot(*(mine[:, None] - yours[None]).transpose(2, 0, 1))
            right += (distances.min(1) <= tolerance).sum()
            found += (distances.min(0) <= tolerance).sum()
    iou = both / either if either else np.nan
    precision, recall = right / max(predicted, 1), found / max(true, 1)
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return iou, f if true + predicted else np.nan


@pytest.mark.parametrize(("width", "tolerance"), [(1, 1), (3, 2.5)])
def test_boundaries_agree_with_a_plain_implementation(width, tolerance):
    pairs = [(blobs((31, 40), seed), blobs((31, 40), seed + 50)) for seed in range(3)]
    for seed, (prediction, truth) in enumerate(pairs):
        truth[5:22, 10 * seed : 10 * seed + 17] = 255  # an area, not a line
        close = np.random.default_rng(seed).random(truth.shape) < 0.8
        prediction[close & (truth != 255)] = truth[close & (truth != 255)]
        prediction[prediction == 3] = 0  # a class that is never predicted
    counts = SplitCounts(CLASSES, width, tolerance)
    for k, (prediction, truth) in enumerate(pairs):
        counts.update(f"image{k}", prediction, truth)
    metrics = counts.metrics("val")
    found = []
    for k, name in enumerate(CLASSES):
        iou, f = plain_boundaries(pairs, k, width, tolerance)
        found.append((iou, f))
        assert metrics[f"val/boundary_iou/{name}"] == pytest.approx(iou)
        assert metrics[f"val/boundary_f/{name}"] == pytest.approx(f)
    assert found[3] == (0, 0)
    assert 0 < found[0][0] < 1
    means = [np.mean(values) for values in zip(*found, strict=True)]
    assert [metrics["val/mean_boundary_iou"], metrics["val/mean_boundary_f"]] == pytest.approx(means)


def test_void_is_no_boundary():
    truth = np.zeros((9, 9), np.uint8)
    truth[:, 4] = 255
    assert not contours(truth).any()
    band = boundary_band(truth, 1)
    assert not band[1:-1, 1:-1].any()
    assert band[0].all()
    assert band[:, -1].all()
    prediction = np.zeros_like(truth)
    prediction[:, 4] = 1
    counts = SplitCounts(("a", "b"), 1, 1)
    counts.update("image", prediction, truth)
    metrics = counts.metrics("val")
    assert metrics["val/boundary_iou/a"] == 1
    assert np.isnan(metrics["val/boundary_f/a"])  # no contour at all
    assert np.isnan(metrics["val/precision/b"])


@pytest.mark.parametrize("width", [1, 2, 4, 5, 16, 17])
def test_boundaries_under_void_lines(width):
    """As VOC draws them: without closing them there would be no boundary in the truth. Wider void stays void."""
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 1
    prediction = np.roll(truth, 3, 1)
    prediction[:, :3] = 0
    truth[:, 20 - width // 2 : 20 + (width + 1) // 2] = 255
    found = {}
    for tolerance in (4, 1):
        counts = SplitCounts(("a", "b"), 4, tolerance)
        counts.update("image", prediction, truth)
        found[tolerance] = [counts.metrics("val")[f"val/boundary_f/{name}"] for name in "ab"]
    assert found[4] == pytest.approx([1, 1] if width < 17 else [np.nan, np.nan], nan_ok=True)
    is_hidden = width > 4  # the wrong columns
    assert found[1] == pytest.approx([0, 0] if not is_hidden else found[4], nan_ok=True)
    inner = np.zeros_like(truth, bool)
    inner[4:-4, 4:-4] = True  # without the image's border
    bands = boundary_band(close_void_lines(truth, truth)[0], 4) & inner & (truth != 255)
    assert bands.any(0).sum() == max(0, 8 - width) if width < 8 else not bands.any()


def test_all_other_metrics_are_those_of_one_confusion_matrix():
    pairs = [(blobs((25, 37), seed), blobs((25, 37), seed + 9, void=0.1)) for seed in range(4)]
    counts, confusion = SplitCounts(CLASSES), ConfusionMatrix(4)
    for prediction, truth in pairs:
        counts.update("image", prediction, truth)
        confusion.update(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None])
    assert (counts.matrix == confusion.matrix.numpy()).all()
    metrics = counts.metrics("val")
    expected = compute_metrics(confusion.matrix, CLASSES, "val")
    assert {name: metrics[name] for name in expected} == expected  # to the bit
    predictions, truths = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    predictions, truths = predictions[truths != 255], truths[truths != 255]
    for k, name in enumerate(CLASSES):
        true, predicted = truths == k, predictions == k
        precision, recall = (true & predicted).sum() / predicted.sum(), (true & predicted).sum() / true.sum()
        assert metrics[f"val/precision/{name}"] == pytest.approx(precision)
        assert metrics[f"val/recall/{name}"] == pytest.approx(recall)
        assert metrics[f"val/dice/{name}"] == pytest.approx(2 / (1 / precision + 1 / recall))
    assert metrics["val/mean_dice"] == pytest.approx(np.mean([metrics[f"val/dice/{name}"] for name in CLASSES]))


def test_images_keep_their_own_counts(tmp_path):
    counts = SplitCounts(CLASSES)
    for seed in range(3):
        counts.update(f"image {seed}", blobs((12, 18), seed), blobs((12, 18), seed + 1))
    counts.write(tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == ["image 0", "image 1", "image 2"]
        assert tuple(file["classes"]) == CLASSES
        for name, part in counts.images._asdict().items():
            assert (file[name] == part).all()
            assert part.shape == (3, 4)
    alone = SplitCounts(CLASSES)
    alone.update("image 1", blobs((12, 18), 1), blobs((12, 18), 2))
    single = ImageCounts(*(part[1:2] for part in counts.images))
    assert {f"val/{name}": value.item() for name, value in single.metrics(CLASSES).items()} == pytest.approx(
        alone.metrics("val"), nan_ok=True
    )


def test_distances():
    assert in_pixels(0.02, (300, 400)) == pytest.approx(10)
    assert in_pixels(0.02, (3, 4)) == 1
    assert in_pixels(7, (300, 400)) == 7
    assert describe_distance(0.02) == "2 % of the image's diagonal"
    assert describe_distance(3) == "3 pixels"
    with pytest.raises(UserError, match="boundary_distance=0: give a share of the image's diagonal"):
        check_distance("boundary_distance", 0)
