"""Checks of masks against the classes, and advice about values and colours that are no class."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.image_io import COLOURS, read_palette
from segframe.data.label_map import (
    IGNORE,
    LABEL_MAP,
    NO_CLASS,
    OTHER,
    LabelTable,
    format_colour,
    format_value,
    pack_colour,
    voc_palette,
)
from segframe.errors import UserError, first_names

BLACK_AND_WHITE = "mask of 0 and 255 only, and 255 is void"
PALETTE_MISMATCH = "mask whose colours are those of other classes"
TRAIN_IDS = "labelTrainIds"
"""End of the names of masks that hold class indices beside the release's own, in Cityscapes and mmsegmentation."""
GREY_RAMP = bytes(level for level in range(256) for _ in range(3))
"""Palette of a mask without one."""

_MAX_LABELS = 16
"""More invalid values than this are taken for noise, not for labels."""
_GREY = 0x010101
"""Times 0 ... 255: the grey levels."""
_WHITE = 0xFFFFFF


def map_mask(labels: LabelTable, raw: np.ndarray, path: Path) -> np.ndarray:
    """Return the mask as uint8 (H, W), void = 255; UserError if a value of the file is no class."""
    raw = np.ascontiguousarray(raw)
    if raw.dtype != np.uint8:
        mask = labels.map_values(raw)
        is_invalid = (mask == NO_CLASS).any()
    elif labels.is_identity:
        mask, is_invalid = raw, _exceeds(raw, labels)
    else:
        mask = cv2.LUT(raw, labels.table[:256])
        is_invalid = (mask == NO_CLASS).any()
    if is_invalid:
        raise UserError(f"{path} {_describe_invalid(labels, *np.unique(raw, return_counts=True))}")
    return mask


def from_train_ids(raw: np.ndarray, values: Sequence[int], path: Path) -> np.ndarray:
    """Return the dataset's own mask values, uint8, for the class indices and 255 of a *_labelTrainIds.png file.

    `values`: those of the classes. UserError if the file holds others; colours are returned as they are.
    """
    if raw.dtype == COLOURS:
        return raw
    table = np.full(1 << 16, NO_CLASS, np.uint8)
    table[: len(values)], table[IGNORE_INDEX] = values, IGNORE_INDEX
    found = table[raw]
    if (wrong := np.unique(raw[found == NO_CLASS])).size:
        shown = ", ".join(map(str, wrong[:5]))
        raise UserError(
            f"{path} holds the value {shown}, and {TRAIN_IDS} are 0 to {len(values) - 1}, or 255 for void: make the "
            "file again"
        )
    return found


def _exceeds(mask: np.ndarray, labels: LabelTable) -> bool:
    return bool((mask + np.uint8(1)).max() > len(labels.classes))  # void becomes 0


def check_item(labels: LabelTable, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a mask after the transforms as uint8 (H, W); UserError if it does not fit image and classes."""
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"the image is {image.shape[:2]} and its mask {mask.shape}; leave out the transform that changes one alone"
        )
    if not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"the mask is {mask.dtype}; leave out the transform that computes with it")
    is_byte = mask.dtype == np.uint8 or (mask.min() >= 0 and mask.max() <= IGNORE_INDEX)
    if not is_byte or _exceeds(mask.astype(np.uint8, copy=False), labels):
        values = np.unique(mask)
        wrong = values[((values < 0) | (values >= len(labels.classes))) & (values != IGNORE_INDEX)]
        raise UserError(
            f"the mask holds {', '.join(map(str, wrong[:5]))}, and a class is 0 to {len(labels.classes) - 1}, void 255;"
            " leave out the transform that changes values"
        )
    return mask.astype(np.uint8, copy=False)


def is_black_and_white(labels: LabelTable, raw: np.ndarray) -> bool:
    """Whether 255 in this mask of two classes is read as void, and may be the second class: there is no 1."""
    is_read_as_void = labels.is_identity and len(labels.classes) == 2 and raw.dtype != COLOURS
    return is_read_as_void and raw.max() == IGNORE_INDEX and not (raw == 1).any()


def advise_on_black_and_white(labels: LabelTable) -> str:
    """Return what to do if the masks of a split hold 255 and no 1."""
    if not labels.are_settings:
        return "are they binary? Then save them with the values 0 and 1"
    void = labels.format_label_map({IGNORE_INDEX: IGNORE})
    return f"for black and white masks set data.dataset.binary=true; if 255 is void, set {void}"


def palette_conflicts(labels: LabelTable, palette: bytes, used: Iterable[int]) -> dict[int, int]:
    """Return the indices of a palette mask that have another class's colour: index -> class of the colour.

    `palette`: red, green and blue of index 0, 1, ... of the file; `used`: its indices, of which those in the label map
    are right. Half of the others must have colours of classes. If no colours are declared, VOC's and the grey levels
    0, 1, ... count if all have one of them.
    """
    shown = {
        index: int.from_bytes(palette[3 * index : 3 * index + 3], "big")
        for index in used
        if index not in labels.indices and 3 * index < len(palette)
    }
    if len(set(shown.values())) < len(shown) or labels.other is not None:
        return {}  # colours that say nothing about classes, or values that are all listed
    is_ramp = all(colour == index * _GREY for index, colour in shown.items())
    for colours in _known_colours(labels):
        known = {index: colours[colour] for index, colour in shown.items() if colour in colours}
        conflicts = {index: k for index, k in known.items() if k != labels.table[index]}
        unknown = shown.keys() - known.keys()
        if is_ramp:  # indices, unless all of them are shades of grey of classes; of two classes: is_black_and_white
            is_meant = labels.declares_colours and not unknown and len(labels.classes) > 2
        elif labels.declares_colours:
            is_meant = len(unknown) <= len(known)
        else:
            is_meant = unknown <= {IGNORE_INDEX}
        if conflicts and is_meant:
            return conflicts
    return {}


def check_palette(labels: LabelTable, raw: np.ndarray, path: Path) -> None:
    """UserError if a mask has the declared colours, of its palette or as shades of grey, at other classes' indices."""
    if labels.declares_colours and raw.dtype == np.uint8:
        palette = read_palette(path) or GREY_RAMP
        used = np.flatnonzero(cv2.calcHist([raw], [0], None, [256], [0, 256]))
        if conflicts := palette_conflicts(labels, palette, used.tolist()):
            what = f"{PALETTE_MISMATCH} ({describe_conflicts(labels, conflicts, palette)})"
            raise UserError(f"{path}: {what}; {advise_on_conflicts(labels, conflicts)}")


def _known_colours(labels: LabelTable) -> list[dict[int, int]]:
    num_classes = len(labels.classes)
    if labels.declares_colours:
        colours = [pack_colour(colour) for colour in labels.palette]
        return [{c: k for k, c in enumerate(colours) if colours.count(c) == 1} | labels.listed_colours]
    voc = {pack_colour(colour): k for k, colour in enumerate(voc_palette(num_classes))}
    grey = {k * _GREY: k for k in range(num_classes)}
    return [voc, grey | ({_WHITE: 1} if num_classes == 2 else {})]


def describe_conflicts(labels: LabelTable, conflicts: Mapping[int, int], palette: bytes) -> str:
    """Return which indices of a palette mask have another class's colour."""
    return ", ".join(
        f"index {index} is #{palette[3 * index : 3 * index + 3].hex()}, the colour of {_class_name(labels, k)}"
        for index, k in [*conflicts.items()][:3]
    )


def _class_name(labels: LabelTable, k: int) -> str:
    return "void" if k == IGNORE_INDEX else labels.classes[k]


def advise_on_conflicts(labels: LabelTable, conflicts: Mapping[int, int]) -> str:
    """Return what to do about masks whose palettes have these conflicts; none if the palettes differ."""
    if not labels.are_settings:
        return "masks are read by index: save them as RGB, or with class indices as values"
    correct = "correct data.dataset.palette" if labels.palette else "set data.dataset.palette to their colours"
    by_colour = "save the masks as RGB (mogrify -define png:color-type=2)"
    if conflicts:
        by_colour = f"set {labels.format_label_map(conflicts)}, or {by_colour} if their palettes differ"
    return f"masks are read by index: if the colours are right, {by_colour}; if the indices are right, {correct}"


def _describe_invalid(labels: LabelTable, values: np.ndarray, counts: np.ndarray) -> str:
    invalid = labels.map_values(values) == NO_CLASS
    found = zip(values[invalid], counts[invalid], strict=True)
    shown = first_names([f"{format_value(value)} ({count} pixels)" for value, count in found])
    num_classes, kind = len(labels.classes), "colour" if values.dtype == COLOURS else "value"
    if kind == "value":
        problem = f"but there are {num_classes} classes (0-{num_classes - 1}; void: 255)"
    elif labels.palette:
        problem = f"which the palette gives to none of the {num_classes} classes"
    else:
        problem = "and data.dataset.palette is not set"
    return f"holds the {kind} {shown}, {problem}: {advise(labels, values)}"


def advise(labels: LabelTable, values: np.ndarray) -> str:
    """Return what to do about the raw values of one or several masks, some of which are no class."""
    num_classes, present = len(labels.classes), set(values.tolist())
    invalid = values[labels.map_values(values) == NO_CLASS]
    if len(invalid) > max(_MAX_LABELS, num_classes):
        return (
            "was the mask saved as JPEG, or resized with interpolation?"
            + " If it is black and white, set data.dataset.binary=true." * (labels.are_settings and num_classes == 2)
            + f" If these are labels, list them in {LABEL_MAP}, or set its key {OTHER!r}" * labels.are_settings
        )
    if not labels.are_settings:
        return "this dataset's classes are fixed: correct the file, or read masks of your own with data=folder"
    ignored = dict.fromkeys(invalid.tolist(), IGNORE)
    if values.dtype == COLOURS:
        return _advise_on_colours(labels, present, ignored)
    if num_classes == 2 and len(invalid) == 1 and not labels.indices and present <= {0, invalid[0]}:
        return f"for a binary mask set {labels.format_label_map({int(invalid[0]): 1})}"
    if num_classes == 19 and num_classes < invalid.max() <= 33:
        return f"these seem to be Cityscapes labelIds: data=cityscapes reads them, or set a {LABEL_MAP}"
    if num_classes in invalid and not labels.indices:
        void = f"if {num_classes} is the void, set {labels.format_label_map(ignored)}"
        shifted = {k + 1: k for k in range(num_classes)}
        if 0 in present:
            from_1 = labels.format_label_map({0: IGNORE} | shifted | ignored | shifted)
            return f"{void}; if 0 is the void and the classes count from 1, set {from_1}"
        return f"if the classes count from 1, set {labels.format_label_map(shifted | ignored | shifted)}; {void}"
    levels = sorted(present)[:num_classes]
    if present - {*levels} <= {IGNORE_INDEX} and len(levels) == num_classes and not labels.indices:
        order = labels.format_label_map({level: k for k, level in enumerate(levels) if level != k})
        void = labels.format_label_map(ignored)
        return (
            f"if these are the levels of the {num_classes} classes in their order, set {order}; to ignore them, {void}"
        )
    return f"set {labels.format_label_map(ignored)}, or a class instead of ignore, or extend data.dataset.classes"


def _advise_on_colours(labels: LabelTable, present: set[int], ignored: Mapping[int, str]) -> str:
    num_classes = len(labels.classes)
    if num_classes == 2 and present <= {0, _WHITE}:
        return "for black and white masks set data.dataset.binary=true"
    if not labels.palette:
        if present <= {*(k * _GREY for k in range(num_classes)), _WHITE}:
            levels = ",".join(f"[{k},{k},{k}]" for k in range(num_classes))
            void = f", and {labels.format_label_map({format_colour(_WHITE): IGNORE})}" if _WHITE in present else ""
            return (
                f"if their levels are class indices, save them as grey images, or set 'data.dataset.palette=[{levels}]'"
                f"{void}; predictions are then drawn in these colours"
            )
        return f"set 'data.dataset.palette=[[r,g,b],...]', the colours of the {num_classes} classes in their order"
    if {int.from_bytes(colour.to_bytes(3, "big"), "little") for colour in ignored} <= set(labels.colours):
        return "data.dataset.palette seems to be in the order blue, green, red: write it as [red, green, blue]"
    if not present & labels.colours.keys():
        return "correct data.dataset.palette, which holds none of the masks' colours"
    line = labels.format_label_map({format_colour(colour): IGNORE for colour in ignored})
    return f"correct data.dataset.palette, or set {line}, or classes for ignore"
