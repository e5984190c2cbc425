"""From a release's mask values, indices or colours, to class indices; and what to do about values that are none."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.image_io import COLOURS
from segframe.data.palettes import Palette
from segframe.errors import UserError

IGNORE = "ignore"
"""The target in a label map that is the void, as 255 is."""
OTHER = "other"
"""The key of a label map that stands for every value it does not list."""
NO_CLASS = 254
"""What no class has as its index: there are at most 254 of them."""

_SIXTEEN_BIT = 1 << 16
_ALL_COLOURS = 1 << 24
_GREY = 0x010101
_LABEL_MAP = "data.dataset.label_map"
_FIXED = (
    "this dataset's classes and their values are fixed, so correct the file, or read masks of your own with data=folder"
)
_NOISE = 16
"""More wrong values than this are no labels."""


class LabelTable:
    """Raw mask values to class indices.

    An index that the label map does not list stays what it is, if it is a class that no other value is mapped to, or
    the void. A colour ("#rrggbb" in the label map) that it does not list is the class that the palette gives it to. The
    key `other` catches all not listed. Targets are class indices, class names, 255 or "ignore".
    """

    def __init__(
        self,
        classes: Sequence[str],
        label_map: Mapping[int | str, int | str],
        palette: Palette,
        are_settings: bool = True,
    ) -> None:
        """`are_settings`: classes, label map and palette can be set, so that a cure may be to set them."""
        self.classes = tuple(classes)
        self.palette = palette
        self.are_settings = are_settings
        targets = {value: _target(target, classes) for value, target in label_map.items()}
        self.other = targets.pop(OTHER, None)
        self.indices = {key: target for key, target in targets.items() if not isinstance(key, str)}
        self.listed = _by_colour({key: target for key, target in targets.items() if isinstance(key, str)})
        table = np.full(_SIXTEEN_BIT, NO_CLASS if self.other is None else self.other, np.uint8)
        if self.other is None:
            kept = {*range(len(classes)), IGNORE_INDEX} - (set(self.indices.values()) - {IGNORE_INDEX})
            table[list(kept)] = list(kept)
        for value, target in self.indices.items():
            # A bool is an int, and as an index it stands for the whole table.
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _SIXTEEN_BIT:
                raise UserError(f"{_LABEL_MAP} lists {value!r}: {_KEYS}")
            table[value] = target
        self.table = table
        self.is_identity = self.other is None and not self.indices

    @cached_property
    def colours(self) -> dict[int, int]:
        """The class of every known colour, 0xRRGGBB; UserError where two classes share one."""
        found: dict[int, int] = {}
        for k, (red, green, blue) in enumerate(self.palette):
            colour = red << 16 | green << 8 | blue
            if colour in found and colour not in self.listed:
                raise UserError(
                    f"data.dataset.palette gives {_hex(colour)} to {self.classes[found[colour]]} and to "
                    f"{self.classes[k]}: to read colour-coded masks give each class a colour of its own"
                )
            found[colour] = k
        return found | self.listed

    @cached_property
    def colour_table(self) -> np.ndarray:
        """The class of each of the 2^24 colours, uint8; made for the first colour-coded mask."""
        table = np.full(_ALL_COLOURS, NO_CLASS if self.other is None else self.other, np.uint8)
        table[list(self.colours)] = list(self.colours.values())
        return table

    def look_up(self, raw: np.ndarray) -> np.ndarray:
        """Return the classes of raw values of any shape, as uint8: void = 255, NO_CLASS where a value is none."""
        return (self.colour_table if raw.dtype == COLOURS else self.table)[raw]

    def __call__(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Return the mask as uint8 (H, W), void = 255; UserError where a value of the file is no class."""
        raw = np.ascontiguousarray(raw)
        if raw.dtype != np.uint8:
            mask = self.look_up(raw)
            wrong = (mask == NO_CLASS).any()
        elif self.is_identity:
            mask = raw
            wrong = (raw + np.uint8(1)).max() > len(self.classes)  # the void becomes 0
        else:
            mask = cv2.LUT(raw, self.table[:256])
            wrong = (mask == NO_CLASS).any()
        if wrong:
            raise UserError(f"{path} {self.complaint(*np.unique(raw, return_counts=True))}")
        return mask

    def complaint(self, values: np.ndarray, counts: np.ndarray) -> str:
        """Return what is wrong with raw values, each in so many pixels, of which some are no class; and a cure."""
        wrong = self.look_up(values) == NO_CLASS
        shown = ", ".join(
            f"{spell(value)} ({count} pixels)"
            for value, count in zip(values[wrong][:5], counts[wrong][:5], strict=True)
        )
        more = f" and {wrong.sum() - 5} more" if wrong.sum() > 5 else ""
        if values.dtype == COLOURS:
            return (
                f"holds the colour {shown}{more}, which the palette gives to none of the {len(self.classes)} classes: "
                f"{self.cure(values)}"
            )
        return (
            f"holds the value {shown}{more}, but there are {len(self.classes)} classes "
            f"(0 to {len(self.classes) - 1}; 255 = void): {self.cure(values)}"
        )

    def cure(self, values: np.ndarray) -> str:
        """Return what to do where these are the raw values of a mask, or of many, and some of them are no class."""
        wrong = values[self.look_up(values) == NO_CLASS]
        return self._cure_of_colours(values, wrong) if values.dtype == COLOURS else self._cure_of_indices(values, wrong)

    def setting(self, more: Mapping[Any, int | str], colours: Sequence[int] = ()) -> str:
        """Return the label map that holds what it does and more, to be set as it stands; the colours are the void's.

        As it is typed on a command line, which takes no colours: these are for a YAML file. The line can stand behind
        another one, or beside a file, that sets the map as it is: ++ adds to it.
        """
        known = {f'"{_hex(colour)}"': target for colour, target in self.listed.items()}
        known |= {f'"{_hex(colour)}"': IGNORE_INDEX for colour in colours}
        entries = {key: _spelt(target) for key, target in (known | self.indices).items()} | dict(more)
        inner = ", ".join(f"{key}: {target}" for key, target in entries.items())
        if known:
            return f"{_LABEL_MAP}: {{{inner}}} in a YAML file"
        return f"'{'++' if self.indices else ''}{_LABEL_MAP}={{{inner}}}'"

    def _cure_of_indices(self, values: np.ndarray, wrong: np.ndarray) -> str:
        num_classes, ignored = len(self.classes), dict.fromkeys(wrong[:_NOISE].tolist(), IGNORE)
        if self.are_settings and wrong.min() < num_classes and (self._renumbers or len(wrong) <= _NOISE):
            return self._cure_of_taken(wrong)
        if self.are_settings and num_classes == 2 and len(wrong) == 1 and set(values.tolist()) <= {0, wrong[0]}:
            return f"for a binary mask set {self.setting({int(wrong[0]): 1})}"
        look_like_ids = num_classes == 19 and num_classes < wrong.max() <= 33
        if self.are_settings and not look_like_ids and self._may_start_at_one(values, wrong):
            rest: dict[int, int | str] = {value: IGNORE for value in ignored if value != num_classes}
            shift = self.setting({**{k + 1: k for k in range(num_classes)}, **rest})
            void = self.setting({num_classes: IGNORE_INDEX, **rest})
            return f"do the classes count from 1? Then set {shift}; or is {num_classes} the void? Then set {void}"
        if self.are_settings and wrong.tolist() == [num_classes]:
            return f"is it the void? Then set {self.setting({num_classes: IGNORE_INDEX})}"
        if self.are_settings and look_like_ids:
            return f"these look like Cityscapes labelIds, which need a {_LABEL_MAP}"
        if len(wrong) > _NOISE:
            return "grey levels, not class indices? Was the mask saved as JPEG, or resized with interpolation?"
        if not self.are_settings:
            return _FIXED
        one, its = ("a class", "its class") if len(wrong) == 1 else ("classes", "their classes")
        return f"set {self.setting(ignored)}, or to {one} instead of ignore, or list {its} in data.dataset.classes"

    def _may_start_at_one(self, values: np.ndarray, wrong: np.ndarray) -> bool:
        return not self.indices and len(wrong) <= _NOISE and 0 not in values and len(self.classes) in wrong

    @property
    def _renumbers(self) -> bool:
        return set(range(len(self.classes))) <= set(self.indices.values())

    def _cure_of_taken(self, wrong: np.ndarray) -> str:
        # A map that renumbers all classes leaves out what is none; any other, values that are what they were.
        told = f"{_LABEL_MAP} gives its class to another value, so list {wrong.min()} too"
        if self._renumbers:
            return f"{told}, or set {self.setting({OTHER: IGNORE})}"
        more = {value: value if value < len(self.classes) else IGNORE for value in wrong.tolist()}
        return f"{told}: set {self.setting(more)}, or ignore instead of a class"

    def _cure_of_colours(self, values: np.ndarray, wrong: np.ndarray) -> str:
        if self.are_settings and len(self.classes) == 2 and set(values.tolist()) <= {0, 0xFFFFFF}:
            return "for a binary mask set 'data.dataset.palette=[[0,0,0],[255,255,255]]'"
        if len(wrong) > _NOISE and (wrong % _GREY).any():
            return "blends, not classes? Was the mask saved as JPEG, or resized with interpolation?"
        line = (
            f"set {self.setting({}, wrong[:_NOISE].tolist())}, or classes for ignore" if self.are_settings else _FIXED
        )
        if not (values % _GREY).any():
            rest = "" if len(wrong) > _NOISE else f"; else {line}"
            return f"only greys: an index mask saved as RGB? Then save it with a single channel{rest}"
        return f"correct data.dataset.palette, or {line}" if self.are_settings else line


def spell(value: np.integer) -> str:
    """Return a raw mask value as people write it: 7, or #e0e0c0."""
    return _hex(int(value)) if value.dtype == COLOURS else str(value)


_KEYS = f'its keys are mask values from 0 to 65535, colours as "#rrggbb", or {OTHER!r}'


def _spelt(target: int) -> int | str:
    return IGNORE if target == IGNORE_INDEX else target


def _hex(colour: int) -> str:
    return f"#{colour:06x}"


def _by_colour(targets: Mapping[str, int]) -> dict[int, int]:
    keys: dict[int, str] = {}
    for key in targets:
        if (first := keys.setdefault(_packed(key), key)) != key:
            raise UserError(f"{_LABEL_MAP} lists {first!r} and {key!r}, which are one colour: keep one of them")
    return {colour: targets[key] for colour, key in keys.items()}


def _packed(key: str) -> int:
    if not re.fullmatch("#[0-9a-fA-F]{6}", key):
        raise UserError(f"{_LABEL_MAP} lists {key!r}: {_KEYS}")
    return int(key[1:], 16)


def _target(target: int | str, classes: Sequence[str]) -> int:
    if target in (IGNORE, IGNORE_INDEX):
        return IGNORE_INDEX
    if target in classes:
        return classes.index(str(target))
    if isinstance(target, int) and 0 <= target < len(classes):
        return target
    close = get_close_matches(str(target), classes, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "give a class index, a class name or 'ignore'"
    raise UserError(f"{_LABEL_MAP} maps to {target!r}, which is none of the {len(classes)} classes: {hint}")
