"""Augmentation: the crop equals resize-then-crop, padding is void, randomness comes from the sample's seed."""

import albumentations as A
import cv2
import numpy as np
import pytest

from segframe.data import RandomScaleCrop, Shapes, Transform
from segframe.errors import UserError

GREY = (124, 116, 104)


def smooth(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def no_ties(shape, scaled):
    # Where a pixel's centre lies between two source pixels, either is the nearest.
    rows, cols = ((2 * np.arange(new) + 1) * old % (2 * new) != 0 for old, new in zip(shape, scaled, strict=True))
    return np.outer(rows, cols)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(90, 130), (301, 77)])
def test_crop_equals_resizing_the_whole_image_first(seed, shape):
    image, mask = smooth(*shape), np.random.default_rng(1).integers(0, 5, shape, np.uint8)
    crop = RandomScaleCrop((65, 97), scale=(0.4, 2.5))
    crop.set_random_seed(seed)
    result = crop(image=image, mask=mask)
    (height, width), (top, left) = crop.params["scaled"], crop.params["corner"]
    whole = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[top : top + 65, left : left + 97]
    labels = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    labels, clear = (whole[top : top + 65, left : left + 97] for whole in (labels, no_ties(shape, (height, width))))
    rows, cols = labels.shape
    assert result["image"].shape == (65, 97, 3)
    assert np.abs(result["image"][:rows, :cols].astype(int) - whole).max() <= 6
    assert np.abs(result["image"][:rows, :cols].astype(int) - whole).mean() < 0.7
    assert (result["mask"][:rows, :cols] == labels)[clear].all()
    assert (result["mask"][rows:] == 255).all()
    assert (result["mask"][:, cols:] == 255).all()
    assert (result["image"][rows:] == GREY).all()
    assert (result["image"][:, cols:] == GREY).all()


def test_windows_are_uniform_and_scales_fill_their_range():
    crop = RandomScaleCrop(32, scale=(0.5, 2.0))
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    scales, places = [], []
    for seed in range(400):
        crop.set_random_seed(seed)
        crop(image=image, mask=mask)
        side, top = crop.params["scaled"][0], crop.params["corner"][0]
        scales.append(side / 64)
        if side > 40:
            places.append(top / (side - 32))
    assert min(scales) < 0.55
    assert max(scales) > 1.95
    assert np.mean(scales) == pytest.approx(1.25, abs=0.07)
    assert np.mean(places) == pytest.approx(0.5, abs=0.06)
    assert min(places) < 0.02
    assert max(places) > 0.98


def test_scale_one_is_a_plain_crop():
    image, mask = smooth(50, 60), np.arange(3000).reshape(50, 60).astype(np.uint8)
    crop = RandomScaleCrop(40, scale=(1, 1))
    result = crop(image=image, mask=mask)
    top, left = crop.params["corner"]
    assert (result["image"] == image[top : top + 40, left : left + 40]).all()
    assert (result["mask"] == mask[top : top + 40, left : left + 40]).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (32, 32)])
def test_any_image_gives_the_exact_size(shape):
    crop = Transform([RandomScaleCrop((32, 40))])
    image, mask = crop(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), seed=0)
    assert image.shape == (32, 40, 3)
    assert mask.shape == (32, 40)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": (1, 2, 3)}, "height, width"),
        ({"size": 1.5}, "1.5"),
        ({"size": 9, "scale": (2, 1)}, "2, 1"),
        ({"size": 9, "scale": (0, 1)}, "positive"),
        ({"size": 9, "scale": 2}, "scale is 2"),
    ],
)
def test_wrong_crops(settings, part):
    with pytest.raises(UserError, match=part):
        RandomScaleCrop(**settings)


def test_no_steps_change_nothing():
    image, mask = Shapes(None, "val").read(0)
    same = Transform([])(image, mask, seed=3)
    assert (same[0] == image).all()
    assert (same[1] == mask).all()


def test_the_result_is_a_function_of_the_seed():
    image, mask = Shapes(None, "val").read(0)
    transform = Transform([RandomScaleCrop(64), A.HorizontalFlip(), A.ColorJitter(), A.GaussNoise(p=1)])
    first = transform(image, mask, seed=1)
    other = transform(image, mask, seed=2)
    again = transform(image, mask, seed=1)
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert not (first[0] == other[0]).all()


@pytest.mark.parametrize("wrap", [list, lambda steps: [A.Sequential(steps, p=1)]])
def test_steps_draw_independently(wrap):
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 0] = 100
    transform = Transform(wrap([A.HorizontalFlip(p=0.5), A.InvertImg(p=0.5)]))
    seen = set()
    for seed in range(60):
        out, _ = transform(image, np.zeros((2, 2), np.uint8), seed)
        seen.add(tuple(out[0, :, 0].tolist()))
    assert seen == {(100, 0), (0, 100), (155, 255), (255, 155)}


def test_what_a_rotation_uncovers_is_void():
    image, mask = np.full((40, 40, 3), 9, np.uint8), np.ones((40, 40), np.uint8)
    steps = [A.OneOf([A.Rotate((45, 45), p=1)], p=1)]
    _, turned = Transform(steps)(image, mask, seed=0)
    assert np.unique(turned).tolist() == [1, 255]
    _, padded = Transform([A.PadIfNeeded(50, 50, border_mode=cv2.BORDER_CONSTANT)])(image, mask, seed=0)
    assert (padded == 255).sum() == 900
    _, dropped = Transform([A.CoarseDropout(p=1)])(image, mask, seed=0)
    assert (dropped == 1).all()


def test_steps_that_are_no_transforms_or_normalise():
    with pytest.raises(UserError, match="albumentations"):
        Transform([lambda image: image])
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with pytest.raises(UserError, match="leave out Normalize"):
        Transform([A.Normalize()])(image, mask, seed=0)


def test_scales_in_steps():
    crop = RandomScaleCrop((8, 8), scale=(0.5, 1.5), step=0.25)
    image, mask = smooth(40, 80), np.zeros((40, 80), np.uint8)
    heights = set()
    for seed in range(80):
        crop.set_random_seed(seed)
        crop(image=image, mask=mask)
        heights.add(crop.params["scaled"][0])
    assert heights == {20, 30, 40, 50, 60}
    with pytest.raises(UserError, match="step is 0"):
        RandomScaleCrop((8, 8), scale=(0.5, 1.5), step=0)
