"""Transform runs its steps as albumentations' Compose does: the same random numbers, the same pixels."""

import random

import albumentations as A
import cv2
import numpy as np
import pytest
from conftest import ROOT, composed

from segframe.config.instantiate import instantiate
from segframe.data import Transform

PRESETS = sorted(path.stem for path in (ROOT / "configs" / "transforms").glob("*.yaml"))
FORMATS = [(3, np.uint8), (3, np.uint16), (1, np.uint8), (5, np.uint8)]


def make_pair(channels, dtype, height=60, width=88):
    rng = np.random.default_rng(channels)
    small = rng.integers(0, np.iinfo(dtype).max, (height // 4, width // 4, channels), dtype, endpoint=True)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    mask = rng.integers(0, 21, (height // 4, width // 4), np.uint8).repeat(4, 0).repeat(4, 1)
    mask[::9] = 255
    return image, mask


def check_against_compose(transform, channels, dtype, seeds):
    compose = A.Compose(transform.compose.transforms)
    image, mask = make_pair(channels, dtype)
    for seed in range(seeds):
        generators = np.random.default_rng(seed), random.Random(seed)
        compose.set_random_state(*generators)
        expected = compose(image=image.copy(), mask=mask.copy())
        states = generators[0].bit_generator.state, generators[1].getstate()
        found = transform(image, mask, seed)
        for values, name in zip(found, ("image", "mask"), strict=True):
            assert values.dtype == expected[name].dtype
            assert np.array_equal(values, expected[name])
        drawn = transform.compose
        assert (drawn.random_generator.bit_generator.state, drawn.py_random.getstate()) == states


@pytest.mark.parametrize("seeds", [15, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("channels", "dtype"), FORMATS)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset, channels, dtype, seeds):
    crop = [] if preset == "whole" else ["transforms.scale=[0.5,2]", "transforms.rare_class_probability=0.5"]
    config = composed(f"transforms={preset}", "data.crop_size=48", *crop)
    check_against_compose(Transform(instantiate(config.transforms.train, "transforms")), channels, dtype, seeds)


@pytest.mark.parametrize("seeds", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_other_steps(seeds):
    """Nested steps, steps that change the strides or the input, and steps that apply to images alone."""
    nested = A.Compose([A.RandomRotate90(), A.GaussNoise(), A.Compose([A.Transpose()], p=0.3)], p=0.7)
    steps = [
        A.OneOf([A.Rotate(), A.SomeOf([A.VerticalFlip(), A.RandomBrightnessContrast()], n=1)], p=0.8),
        A.RandomOrder([A.CLAHE(), A.HueSaturationValue()], n=2),
        nested,
        A.RandomCrop(32, 32),
        A.CoarseDropout(p=0.5),
        A.D4(),
    ]
    check_against_compose(Transform(steps), 3, np.uint8, seeds)
