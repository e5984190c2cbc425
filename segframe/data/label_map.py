"""Mapping of raw mask values (indices or colours) to class indices."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.image_io import COLOURS
from segframe.errors import UserError

Palette = tuple[tuple[int, int, int], ...]
"""(R, G, B) of class 0, 1, ..."""

IGNORE = "ignore"
"""Label map target for void pixels, the same as 255."""
OTHER = "other"
"""Label map key for all values that are not listed."""
NO_CLASS = 254
"""Marks values that are no class; there are at most 254 classes."""
LABEL_MAP = "data.dataset.label_map"

_NUM_INDICES = 1 << 16
_NUM_COLOURS = 1 << 24
_KEYS = f'its keys are mask values from 0 to 65535, colours as "#rrggbb" or red-green-blue (255-128-0), or {OTHER!r}'


def voc_palette(num_classes: int) -> Palette:
    """Return the colour map of PASCAL VOC (2007 on), which is defined for any number of classes."""
    return tuple(_voc_colour(index) for index in range(num_classes))


def _voc_colour(index: int) -> tuple[int, int, int]:
    # Bits 0, 3, 6 of the index are the highest bits of red, 1, 4, 7 those of green, 2, 5 those of blue.
    red, green, blue = (sum((index >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3))
    return red, green, blue


def parse_palette(colours: str) -> Palette:
    """Return the palette of colours written as hexadecimal numbers, rrggbb, with spaces between them."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, colours.split()))


class LabelTable:
    """Lookup table from raw mask values to class indices.

    Indices that the label map does not list stay as they are if they are void or a class that no other value is mapped
    to. Colours ("#rrggbb" or "red-green-blue") that it does not list get the class of that colour in the palette, which
    is empty if nobody declared the colours of the masks. The key `other` stands for all values that are not listed.
    Targets are class indices, class names, 255 or "ignore".
    """

    def __init__(
        self,
        classes: Sequence[str],
        label_map: Mapping[int | str, int | str],
        palette: Palette,
        are_settings: bool = True,
    ) -> None:
        """`are_settings`: whether users can set classes, label map and palette, so that advice may say so."""
        self.classes = tuple(classes)
        self.palette = palette
        self.are_settings = are_settings
        targets = {value: parse_target(target, classes) for value, target in label_map.items()}
        self.other = targets.pop(OTHER, None)
        self.indices = {key: target for key, target in targets.items() if not isinstance(key, str)}
        self.listed_colours = _parse_colours({key: target for key, target in targets.items() if isinstance(key, str)})
        table = np.full(_NUM_INDICES, NO_CLASS if self.other is None else self.other, np.uint8)
        if self.other is None:
            kept = {*range(len(classes)), IGNORE_INDEX} - (set(self.indices.values()) - {IGNORE_INDEX})
            table[list(kept)] = list(kept)
        for value, target in self.indices.items():
            # A bool is an int, and as an index it selects the whole table.
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _NUM_INDICES:
                raise UserError(f"{LABEL_MAP} lists {value!r}: {_KEYS}")
            table[value] = target
        self.table = table
        self.is_identity = self.other is None and not self.indices

    @property
    def declares_colours(self) -> bool:
        return bool(self.palette or self.listed_colours)

    @cached_property
    def colours(self) -> dict[int, int]:
        """Class by colour, 0xRRGGBB; UserError if two classes have the same colour."""
        found: dict[int, int] = {}
        for k, colour in enumerate(map(pack_colour, self.palette)):
            if colour in found and colour not in self.listed_colours:
                raise UserError(
                    f"data.dataset.palette gives {format_colour(colour)} to {self.classes[found[colour]]} and to "
                    f"{self.classes[k]}: to read colour-coded masks give each class a colour of its own"
                )
            found[colour] = k
        return found | self.listed_colours

    @cached_property
    def colour_table(self) -> np.ndarray:
        """Class of each of the 2^24 colours, uint8."""
        table = np.full(_NUM_COLOURS, NO_CLASS if self.other is None else self.other, np.uint8)
        table[list(self.colours)] = list(self.colours.values())
        return table

    def map_values(self, raw: np.ndarray) -> np.ndarray:
        """Return the classes of raw values of any shape, as uint8: void = 255, NO_CLASS for invalid values."""
        return (self.colour_table if raw.dtype == COLOURS else self.table)[raw]

    def mask_values(self) -> list[int]:
        """Return the mask value that stands for each class; UserError if a class has none, several or a colour."""
        coloured = {*self.listed_colours.values()}
        found = [np.flatnonzero(self.table == k).tolist() for k in range(len(self.classes))]
        for k, (name, values) in enumerate(zip(self.classes, found, strict=True)):
            if len(values) != 1 or k in coloured:
                count = "a colour" if k in coloured else f"{len(values)} values" if values else "no value"
                raise UserError(f"{LABEL_MAP} gives {count} to {name}, and its masks' value must be known")
        return [value for (value,) in found]

    def format_label_map(self, more: Mapping[Any, int | str]) -> str:
        """Return the setting of the label map with these entries added, as typed on a command line.

        Colours (#rrggbb) become red-green-blue: Hydra's grammar has no #. The prefix ++ lets the setting follow another
        one of the same map.
        """
        listed: dict[Any, int | str] = {format_colour(colour): target for colour, target in self.listed_colours.items()}
        entries = listed | self.indices | dict(more)
        inner = ", ".join(
            f"{_as_typed(key)}: {IGNORE if target == IGNORE_INDEX else target}" for key, target in entries.items()
        )
        return f"'{'++' if self.indices or listed else ''}{LABEL_MAP}={{{inner}}}'"


def format_value(value: np.integer) -> str:
    """Return a raw mask value as text: 7, or #e0e0c0."""
    return format_colour(int(value)) if value.dtype == COLOURS else str(value)


def pack_colour(colour: tuple[int, int, int]) -> int:
    """Return 0xRRGGBB."""
    return int.from_bytes(bytes(colour), "big")


def format_colour(colour: int) -> str:
    return f"#{colour:06x}"


def _as_typed(key: int | str) -> str:
    return "-".join(map(str, bytes.fromhex(key[1:]))) if isinstance(key, str) and key[0] == "#" else str(key)


def _parse_colour(key: str) -> int:
    if re.fullmatch("#[0-9a-fA-F]{6}", key):
        return int(key[1:], 16)
    levels = [int(level) for level in key.split("-")] if re.fullmatch(r"\d{1,3}-\d{1,3}-\d{1,3}", key) else []
    if not levels or max(levels) > 255:
        raise UserError(f"{LABEL_MAP} lists {key!r}: {_KEYS}")
    return pack_colour((levels[0], levels[1], levels[2]))


def _parse_colours(targets: Mapping[str, int]) -> dict[int, int]:
    keys: dict[int, str] = {}
    for key in targets:
        if (first := keys.setdefault(_parse_colour(key), key)) != key:
            raise UserError(f"{LABEL_MAP} lists {first!r} and {key!r}, which are one colour: keep one of them")
    return {colour: targets[key] for colour, key in keys.items()}


def parse_target(target: int | str, classes: Sequence[str]) -> int:
    """Return the class index of a label map's target: an index, a class name, or ignore (255); UserError for others."""
    if target in (IGNORE, IGNORE_INDEX):
        return IGNORE_INDEX
    if target in classes:
        return classes.index(str(target))
    if isinstance(target, int) and 0 <= target < len(classes):
        return target
    close = get_close_matches(str(target), classes, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "give a class index, a class name or 'ignore'"
    raise UserError(f"{LABEL_MAP} maps to {target!r}, which is none of the {len(classes)} classes: {hint}")
