"""Near-duplicate images: copies are found, images that only share a background or a border are not."""

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from segframe.data.inspection.duplicates import MIN_CORRELATION, gradients
from segframe.data.inspection.facts import SMALL_SIDE

COUNT = 40


def cell(rng, background):
    """One ellipse of random place, size and brightness on a uniform background."""
    image = np.full((256, 256), background, np.uint8)
    centre, axes = rng.integers(40, 216, 2).tolist(), rng.integers(20, 30, 2).tolist()
    cv2.ellipse(image, centre, axes, 0, 0, 360, int(rng.integers(background + 60, background + 200) % 256), -1)
    return image


def fundus(rng):
    """A bright disc with smooth random structure, black outside: a border that all images share."""
    distance = np.hypot(*np.mgrid[-128:128, -128:128])
    structure = cv2.resize(rng.normal(0, 15, (12, 12)), (256, 256), interpolation=cv2.INTER_CUBIC)
    return np.where(distance < 118, np.clip(110 + structure, 0, 255), 0).astype(np.uint8)


def copied(image):
    """The image at half the size, as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(image).resize((128, 128), Image.Resampling.BICUBIC).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def found(images):
    shrunk = [cv2.resize(image, (SMALL_SIDE, SMALL_SIDE), interpolation=cv2.INTER_AREA) for image in images]
    vectors = gradients([(None, SimpleNamespace(small=small)) for small in shrunk])
    return vectors @ vectors.T >= MIN_CORRELATION


@pytest.mark.parametrize("draw", [lambda rng: cell(rng, 0), lambda rng: cell(rng, 255), fundus])
def test_copies_are_found_and_shared_backgrounds_are_not(draw):
    rng = np.random.default_rng(0)
    images = [draw(rng) for _ in range(COUNT)]
    assert np.array_equal(found(images), np.eye(COUNT, dtype=bool))
    copies = found([*images, *map(copied, images)])
    assert copies[:COUNT, COUNT:].diagonal().all()


def test_images_without_structure_are_no_copies():
    rng = np.random.default_rng(0)
    images = [np.full((256, 256), value, np.uint8) for value in (0, 100, 200)]
    assert not found([*images, *(cell(rng, 0) for _ in range(COUNT))])[:3].any()
