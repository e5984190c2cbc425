"""Augmentation: the crop equals resize-then-crop, padding is void, results are a function of the sample's seed."""

import albumentations as A
import cv2
import numpy as np
import pytest
from conftest import composed
from dataset_files import check_error
from torch.utils.data import DataLoader

from segframe.config.instantiate import instantiate
from segframe.data import ColorMatrixJitter, RandomScaleCrop, Shapes, Transform
from segframe.errors import UserError

GREY = (124, 116, 104)


def smooth(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def bilinear(image, rows, cols):
    """The image at real coordinates of pixel centres, as float; its border is extended."""
    rows, cols = (np.clip(at, 0, side - 1) for at, side in zip((rows, cols), image.shape, strict=False))
    top, left = np.floor(rows).astype(int), np.floor(cols).astype(int)
    down, right = (rows - top)[:, None, None], (cols - left)[None, :, None]
    bottom, beside = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    upper = image[top][:, left] * (1 - right) + image[top][:, beside] * right
    return upper * (1 - down) + (image[bottom][:, left] * (1 - right) + image[bottom][:, beside] * right) * down


@pytest.mark.parametrize("shape", [(90, 130), (301, 77), (1, 1)])
def test_crop_is_a_window_of_the_scaled_image(shape):
    """Every pixel is the source interpolated at the pixel's centre in the scaled image, up to rounding."""
    rng = np.random.default_rng(1)
    image, mask = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, 5, shape, np.uint8)
    crop = RandomScaleCrop((65, 97), scale=(0.4, 2.5))
    for seed in range(12):
        crop.set_random_seed(seed)
        result = crop(image=image, mask=mask)
        centres = [
            span.start + (span.skipped + np.arange(span.kept) + 0.5) * side / span.scaled
            for span, side in zip(crop.params["spans"], shape, strict=True)
        ]
        rows, cols = map(len, centres)
        expected = bilinear(image, *(at - 0.5 for at in centres))
        assert result["image"].shape == (65, 97, 3)
        assert np.abs(result["image"][:rows, :cols] - expected).max() <= 1
        down, right = (np.floor(at + 1e-9).astype(int) for at in centres)
        assert (result["mask"][:rows, :cols] == mask[down][:, right]).all()
        for padding in (np.s_[rows:], np.s_[:, cols:]):
            assert (result["mask"][padding] == 255).all()
            assert (result["image"][padding] == GREY).all()


def test_distribution_of_scales_and_windows():
    crop = RandomScaleCrop(32, scale=(0.5, 2.0))
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    scales, places = [], []
    for seed in range(400):
        crop.set_random_seed(seed)
        crop(image=image, mask=mask)
        span = crop.params["spans"][0]
        scales.append(span.scaled / 64)
        if span.scaled > 40:
            places.append((span.start * span.scaled / 64 + span.skipped) / (span.scaled - 32))
    assert np.quantile(scales, (0, 0.5, 1)) == pytest.approx([0.5, 1.25, 2], abs=0.1)
    assert np.quantile(places, (0, 0.5, 1)) == pytest.approx([0, 0.5, 1], abs=0.1)


def test_scales_in_steps():
    crop = RandomScaleCrop((8, 8), scale=(0.5, 1.5), step=0.25)
    image, mask = smooth(40, 80), np.zeros((40, 80), np.uint8)
    heights = set()
    for seed in range(80):
        crop.set_random_seed(seed)
        crop(image=image, mask=mask)
        heights.add(crop.params["spans"][0].scaled)
    assert heights == {20, 30, 40, 50, 60}


def street():
    """A mask of classes 0 and 1, with a row of void and a small object of class 2."""
    mask = np.zeros((120, 160), np.uint8)
    mask[:, 100:] = 1
    mask[0] = 255
    mask[70:74, 60:66] = 2
    return np.repeat(mask[..., None], 3, 2), mask


def masks_of_seeds(number, **settings):
    image, mask = street()
    return [Transform([RandomScaleCrop(40, **settings)])(image, mask, seed)[1] for seed in range(number)]


def largest_share(mask):
    counts = np.bincount(mask[mask != 255], minlength=1)
    return counts.max() / max(1, counts.sum())


def test_windows_of_one_class_are_drawn_again():
    plain = masks_of_seeds(100, scale=(1, 1))
    again = masks_of_seeds(100, scale=(1, 1), max_class_share=0.75)
    kept = [(before, after) for before, after in zip(plain, again, strict=True) if largest_share(before) <= 0.75]
    assert 5 < len(kept) < 50
    assert all((before == after).all() for before, after in kept)
    # Windows with a quarter to three quarters of each class start at 21 of 121 columns; eleven draws may all miss them.
    expected = 1 - (1 - 21 / 121) ** 11
    assert np.mean([largest_share(mask) <= 0.75 for mask in again]) == pytest.approx(expected, abs=0.1)


def test_windows_without_labels_are_drawn_again():
    image, mask = street()
    mask[:, :130] = 255
    crop = Transform([RandomScaleCrop(40, (1, 1), max_class_share=1.0)])
    windows = [crop(image, mask, seed)[1] for seed in range(40)]
    assert np.mean([(window != 255).any() for window in windows]) > 0.9


def test_windows_around_rare_classes():
    """Each class is drawn in inverse proportion to its pixels, then one of its pixels as the window's centre."""
    sizes = np.bincount(street()[1].ravel())[:3]
    for scale in (0.5, 1, 2):
        centres = [mask[20, 20] for mask in masks_of_seeds(150, scale=(scale, scale), rare_class_probability=1.0)]
        assert np.mean([centre == 2 for centre in centres]) >= (1 / sizes / (1 / sizes).sum())[2] - 0.05
    half = masks_of_seeds(300, scale=(1, 1), rare_class_probability=0.5)
    with_object = np.mean([(mask == 2).any() for mask in half])
    plain = np.mean([(mask == 2).any() for mask in masks_of_seeds(300, scale=(1, 1))])
    assert with_object == pytest.approx((1 + plain) / 2, abs=0.1)


def test_class_windows_of_any_mask():
    """Images smaller than the window, masks of void alone, images without a mask."""
    settings = {"max_class_share": 0.5, "rare_class_probability": 1.0}
    image = np.zeros((10, 12, 3), np.uint8)
    for mask in (np.full((10, 12), 255, np.uint8), np.full((10, 12), 7, np.uint8)):
        _, window = Transform([RandomScaleCrop(32, (1, 1), **settings)])(image, mask, seed=0)
        assert (window[:10, :12] == mask).all()
    assert RandomScaleCrop(32, **settings)(image=image)["image"].shape == (32, 32, 3)


def test_wrong_crops():
    check_error(lambda: RandomScaleCrop(9, max_class_share=75), "transforms.max_class_share=75", "between 0 and 1")
    check_error(lambda: RandomScaleCrop(9, rare_class_probability=-1), "transforms.rare_class_probability=-1")
    check_error(lambda: RandomScaleCrop((1, 2, 3)), "height, width")
    check_error(lambda: RandomScaleCrop(9, scale=(2, 1)), "2, 1")
    check_error(lambda: RandomScaleCrop(9, step=0), "step is 0")


def test_results_are_a_function_of_the_seed():
    image, mask = Shapes(None, "val").read(0)
    same = Transform([])(image, mask, seed=3)
    assert (same[0] == image).all()
    assert (same[1] == mask).all()
    transform = Transform([RandomScaleCrop(64), A.HorizontalFlip(), A.ColorJitter(), A.GaussNoise(p=1)])
    first, other, again = (transform(image, mask, seed) for seed in (1, 2, 1))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert not (first[0] == other[0]).all()


def test_steps_draw_independently():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 0] = 100
    transform = Transform([A.Sequential([A.HorizontalFlip(p=0.5), A.InvertImg(p=0.5)], p=1)])
    outputs = (transform(image, np.zeros((2, 2), np.uint8), seed)[0] for seed in range(60))
    assert {tuple(output[0, :, 0].tolist()) for output in outputs} == {(100, 0), (0, 100), (155, 255), (255, 155)}


def test_uncovered_pixels_are_void():
    image, mask = np.full((40, 40, 3), 9, np.uint8), np.ones((40, 40), np.uint8)
    _, rotated = Transform([A.OneOf([A.Rotate((45, 45), p=1)], p=1)])(image, mask, seed=0)
    assert np.unique(rotated).tolist() == [1, 255]
    _, padded = Transform([A.PadIfNeeded(50, 50, border_mode=cv2.BORDER_CONSTANT)])(image, mask, seed=0)
    assert (padded == 255).sum() == 900
    _, dropped = Transform([A.CoarseDropout(p=1)])(image, mask, seed=0)
    assert (dropped == 1).all()


def test_read_only_images_are_not_changed():
    """Cached images are read-only; the results can be written to."""
    image, mask = Shapes(None, "val").read(0)
    image.flags.writeable = mask.flags.writeable = False
    before = image.copy()
    for steps in ([], [A.NoOp()], [RandomScaleCrop(32), A.GaussNoise(p=1)], [RandomScaleCrop(32, p=0)]):
        found = Transform(steps)(image, mask, seed=0)
        assert found[0].flags.writeable
        assert found[1].flags.writeable
    assert (image == before).all()


RANGES = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}


def apply_jitters(image, seed, **ranges):
    """The results of A.ColorJitter and ColorMatrixJitter with the same random numbers."""
    results = []
    for kind in (A.ColorJitter, ColorMatrixJitter):
        jitter = kind(**dict.fromkeys(RANGES, 0) | ranges, p=1)
        jitter.set_random_seed(seed)
        results.append((jitter(image=image)["image"].astype(int), {**jitter.params, "shape": None}))
    assert results[0][1] == results[1][1]
    return results[0][0], results[1][0]


def test_jitter_without_hue_equals_albumentations_up_to_one_level():
    for name in ("brightness", "contrast", "saturation"):
        for seed in range(10):
            theirs, ours = apply_jitters(smooth(60, 80), seed, **{name: RANGES[name]})
            assert np.abs(theirs - ours).max() <= 1


def test_hue_is_rotated_by_the_angle_of_albumentations():
    """Up to 18 degrees; albumentations' are rounded to even degrees."""
    image = np.random.default_rng(0).integers(60, 190, (50, 50, 3), np.uint8)
    coloured = np.ptp(image, axis=2) > 60
    for seed in range(10):
        theirs, ours = apply_jitters(image, seed, hue=0.05)
        hues = [cv2.cvtColor((x / 255).astype(np.float32), cv2.COLOR_RGB2HSV)[..., 0] for x in (theirs, ours)]
        difference = np.abs((hues[0] - hues[1] + 180) % 360 - 180)[coloured]
        assert np.median(difference) < 3
        assert np.quantile(difference, 0.99) < 6
        assert np.abs(theirs - ours).mean() < 6


def test_unsuitable_steps():
    check_error(lambda: Transform([lambda image: image]), "albumentations")
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    check_error(lambda: Transform([A.Normalize()])(image, mask, seed=0), "leave out Normalize")


def test_errors_of_a_step_name_it_and_the_sample():
    shapes = Shapes(None, "train", Transform([A.HorizontalFlip(p=0), A.RandomCrop(64, 64)]), size=32)
    message = r"^Shapes train_0000 \(32x32 pixels, sample 0\): transforms: RandomCrop fails \(CropSizeError: Crop .*32"
    for num_workers in (0, 1):
        with pytest.raises(UserError, match=message):
            next(batches := iter(DataLoader(shapes, batch_size=2, num_workers=num_workers)))
    batches._shutdown_workers()  # the garbage collector would wait for them in vain


def test_bugs_in_own_steps_keep_their_traceback(monkeypatch):
    def broken(*arguments, **settings):
        raise ZeroDivisionError

    monkeypatch.setattr(RandomScaleCrop, "apply", broken)
    with pytest.raises(ZeroDivisionError):
        Transform([RandomScaleCrop(8)])(np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint8), seed=0)


def test_photometric_distortion():
    """Grey images: + up to 32 levels, then times 0.5 to 1.5, each for half of them; saturation and hue leave grey."""
    config = composed("transforms=photometric", "transforms.scale=[1,1]", "data.crop_size=8")
    transform = Transform(instantiate(config.transforms.train, "transforms"))
    image, mask = np.full((8, 8, 3), 100, np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8)
    levels = []
    for seed in range(200):
        found, same = transform(image, mask, seed)
        assert np.ptp(found.astype(int)) == 0
        assert np.array_equal(np.sort(same), mask)  # mirrored at most
        levels.append(int(found[0, 0, 0]))
    assert (100 - 32) * 0.5 - 1 <= min(levels) < 50
    assert 170 < max(levels) <= (100 + 32) * 1.5 + 1
    assert 0.15 < np.mean(np.array(levels) == 100) < 0.35
    colours = [transform(np.full((8, 8, 3), (180, 90, 90), np.uint8), mask, seed)[0][0, 0] for seed in range(80)]
    assert len({tuple(colour.tolist()) for colour in colours}) > 60
