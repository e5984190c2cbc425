"""Proposal of data.dataset.classes for masks, by files of classes and the values of the masks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.class_files import find_class_files
from segframe.data.image_io import COLOURS
from segframe.data.label_map import IGNORE, NO_CLASS
from segframe.errors import UserError

NAME_FILES = ("labels.txt", "classes.txt", "class_names.txt")
"""Files of names that are tried too: labelme's, YOLO's and labelme2voc's."""
MAX_MASKS = 200
"""Masks of each split that are read, evenly spaced."""
MAX_CLASSES = 64
"""Maximum number of mask values that are proposed as classes."""
BLACK_AND_WHITE_VALUES = {0, 255}
TWO_CLASSES = "data.dataset.classes=[background,object]"
BINARY = [TWO_CLASSES, "data.dataset.binary=true"]

OpenSplits = Callable[[Sequence[str]], Sequence[SegmentationDataset]]
"""Opens the splits with these settings in addition."""


def propose_classes(root: Path, open_splits: OpenSplits) -> tuple[list[str], str]:
    """Return the settings of the classes, as typed, and where they are from; UserError if the values are no classes."""
    files = [*find_class_files(root), *(root / name for name in NAME_FILES if (root / name).is_file())]
    for path in files:
        word = f"data.dataset.classes={path.relative_to(root)}"
        try:
            if all(map(_fits, open_splits([word]))):
                return [word], f"classes of {path.name}"
        except UserError:
            continue
    values = {
        (value, raw.dtype == COLOURS)
        for each in open_splits([TWO_CLASSES])
        for raw in _values_of_masks(each)
        for value in raw
    }
    colours = sorted(int(value) for value, is_colour in values if is_colour)
    indices = sorted(int(value) for value, is_colour in values if not is_colour)
    if colours and not {*indices} <= BLACK_AND_WHITE_VALUES:
        raise UserError(f"some masks below {root} hold colours and some indices: save all in one way")
    if colours:
        return _of_colours(root, colours), "class names to edit, by the colours of the masks"
    words = _of_indices(root, indices)
    if len(indices) > len(BLACK_AND_WHITE_VALUES) and words == BINARY:  # with grey, which is refused if it is too much
        for each in open_splits(BINARY):
            _values_of_masks(each)
    return words, "class names to edit, by the values of the masks"


def _values_of_masks(dataset: SegmentationDataset) -> list[np.ndarray]:
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(MAX_MASKS, len(dataset))).astype(int))
    return [np.unique(dataset.raw_mask(dataset.samples[k])) for k in chosen]


def _fits(dataset: SegmentationDataset) -> bool:
    return all((dataset.labels.map_values(values) != NO_CLASS).all() for values in _values_of_masks(dataset))


def _of_indices(root: Path, values: list[int]) -> list[str]:
    if values == sorted(BLACK_AND_WHITE_VALUES):
        return BINARY
    levels = [value for value in values if value != IGNORE_INDEX]
    if len(levels) < 2:
        raise UserError(
            f"the masks below {root} hold the value {', '.join(map(str, values))} only: are they masks? Then type "
            "data=folder data.dataset.classes=[...]"
        )
    if values[0] < 16 and values[-1] > 239 and len(values) > MAX_CLASSES:
        return BINARY
    if len(levels) > MAX_CLASSES and levels[-1] > 2 * len(levels):
        raise UserError(f"the masks below {root} hold {len(levels)} values, too many for classes: are they masks?")
    if levels == [0, 1]:
        return [TWO_CLASSES]
    if levels[0] == 0 and levels[-1] < 2 * len(levels):
        return [_names(range(levels[-1] + 1))]
    mapped = ", ".join(f"{value}: {k}" for k, value in enumerate(levels))
    return [_names(levels), f"data.dataset.label_map={{{mapped}}}"]


def _of_colours(root: Path, colours: list[int]) -> list[str]:
    if {*colours} <= {0, 0xFFFFFF}:
        return BINARY
    void = [colour for colour in colours if colour == 0xE0E0C0]  # VOC's border
    colours = [colour for colour in colours if colour not in void]
    if not 1 < len(colours) <= MAX_CLASSES:
        raise UserError(
            f"the masks below {root} hold {len(colours)} colours: are they masks, saved without loss? Then type "
            "data=folder with data.dataset.classes and palette"
        )
    palette = ",".join(f"[{colour >> 16},{colour >> 8 & 255},{colour & 255}]" for colour in colours)
    words = [_names(range(len(colours))), f"data.dataset.palette=[{palette}]"]
    return [*words, f"data.dataset.label_map={{224-224-192: {IGNORE}}}"] if void else words


def _names(values: Sequence[int]) -> str:
    return f"data.dataset.classes=[{','.join(f'class_{value}' for value in values)}]"
