"""Pictures of masks, predictions and confusion matrices."""

import numpy as np
import pytest

from segframe.visualization.overlays import VOID, add_legend, colorize, comparison, confusion_picture, legend, overlay

NAMES = ("background", "cat", "dog")
PALETTE = ((0, 0, 0), (200, 10, 10), (10, 10, 200))


def test_colorize_gives_each_class_its_color_and_void_light_grey():
    colors = colorize(np.array([[0, 1], [2, 255]], dtype=np.uint8), PALETTE)
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[0, 0, 0], [200, 10, 10]], [[10, 10, 200], list(VOID)]]


def test_overlay_mixes_without_wrapping_around():
    image = np.full((2, 2, 3), 250, dtype=np.uint8)
    classes = np.full((2, 2), 1, dtype=np.uint8)
    assert overlay(image, classes, PALETTE, alpha=0.0).tolist() == image.tolist()
    assert overlay(image, classes, PALETTE, alpha=0.5)[0, 0].tolist() == [225, 130, 130]


def test_legend_wraps_and_names_void():
    wide, narrow = legend(NAMES, PALETTE, [0, 1, 255], 600), legend(NAMES, PALETTE, [0, 1, 255], 130)
    assert wide.shape[1] == 600
    assert narrow.shape[1] == 130
    assert narrow.shape[0] > wide.shape[0]
    for color in (*PALETTE[:2], VOID):
        assert (wide == np.array(color, dtype=np.uint8)).all(-1).any()
    assert not (wide == np.array(PALETTE[2], dtype=np.uint8)).all(-1).any()


@pytest.mark.parametrize("size", [(32, 48), (1024, 2048), (65, 33)])
def test_comparison_is_readable_at_any_size(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    truth = np.zeros(size, dtype=np.uint8)
    truth[:5] = 255
    picture = comparison(image, truth, np.ones_like(truth), NAMES, PALETTE)
    assert picture.dtype == np.uint8
    assert 256 < picture.shape[0] < 700
    assert picture.shape[1] > 3 * 130


def test_comparison_shows_the_three_panels_in_order():
    image = np.full((300, 300, 3), 100, dtype=np.uint8)
    truth, prediction = np.full((300, 300), 1, dtype=np.uint8), np.full((300, 300), 2, dtype=np.uint8)
    row = comparison(image, truth, prediction, NAMES, PALETTE)[200]
    assert [row[x].tolist() for x in (150, 456, 762)] == [[100, 100, 100], [150, 55, 55], [55, 55, 150]]


def test_confusion_picture_colors_by_row_and_greys_absent_classes():
    matrix = np.array([[10, 0, 0], [0, 0, 10], [0, 0, 0]])
    picture = confusion_picture(matrix, NAMES)
    below, right = np.argwhere((picture == VOID).all(-1)).max(axis=0)
    cells = picture[below - 170 : below : 80, right - 170 : right : 80]
    assert (cells[2] == VOID).all()
    assert cells[0, 0].tolist() == cells[1, 2].tolist() == [8, 48, 107]
    assert cells[0, 1].tolist() == [250, 252, 255]


def test_confusion_picture_of_many_classes_stays_small():
    picture = confusion_picture(np.eye(150, dtype=np.int64), [f"class {k}" for k in range(150)])
    assert max(picture.shape) < 2500


def test_overlay_leaves_one_class_untinted():
    image = np.full((2, 3, 3), 100, np.uint8)
    classes = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = ((0, 0, 0), (200, 0, 0), (0, 200, 0))
    found = overlay(image, classes, palette, 0.5, untinted=0)
    assert (found[classes == 0] == 100).all()
    assert (found[classes == 1] == (150, 50, 50)).all()
    assert (overlay(image, classes, palette, 0.5)[classes == 0] == 50).all()


@pytest.mark.parametrize(("height", "width"), [(360, 480), (1080, 1920), (32, 40), (60, 2000)])
def test_legend_inside(height, width):
    names = ("road", "sky", "a rather long name of a class", "car")
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255))
    picture = np.full((height, width, 3), 77, np.uint8)
    found = add_legend(picture, names, palette, [0, 2])
    assert found.shape == picture.shape
    assert (picture == 77).all()
    packed = np.unique(found.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)).tolist()
    colours = {(value >> 16, value >> 8 & 255, value & 255) for value in packed}
    if height > 32:  # else some have no room
        assert {palette[0], palette[2]} <= colours
        assert (found[:, width // 2 :] == 77).all()
    assert not {palette[1], palette[3]} & colours
    assert np.array_equal(add_legend(picture, names, palette, []), picture)
