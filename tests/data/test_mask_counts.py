"""Pixels of each value and class in the masks that check_data reads."""

import numpy as np
import pytest
from conftest import mask_of, photo
from PIL import Image
from test_check_data import check

from segframe.data.image_io import pack
from segframe.data.inspection.facts import MAX_VALUES, count_values


def test_count_values():
    for raw in (pack(photo(0)), mask_of(1).astype(np.uint16) * 999):
        for found, expected in zip(count_values(raw), np.unique(raw, return_counts=True), strict=True):
            assert (found == expected).all()


@pytest.mark.parametrize("values", [MAX_VALUES, 3 * MAX_VALUES])
def test_classes_are_counted_over_all_values(photos, values):
    """Of numbers of instances, of which there may be more than are kept."""
    for path in (photos / "masks").rglob("*.png"):
        numbers = np.arange(32 * 40).reshape(32, 40) % values
        Image.fromarray(numbers.astype(np.uint16)).save(path)
        Image.new("RGB", (40, 32), (1, 2, 3)).save(photos / "images" / path.relative_to(photos / "masks"))
    words = ("data.dataset.classes=[ground,thing]", "data.dataset.label_map={0: 0, other: 1}")
    _, found = check(photos, *words)
    for _, mask in found.splits[0].masks:
        grounds = len(range(0, 32 * 40, values))
        assert mask.class_counts[:2].tolist() == [grounds, 32 * 40 - grounds]
        assert len(mask.values) == MAX_VALUES
