"""Reading images and masks, and turning a release's mask values into class indices."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode

from segframe import IGNORE_INDEX
from segframe.errors import UserError

OTHER = "other"
"""The key of a label map that stands for every value it does not list."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WITH_MORE = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL")
"""Chunks that may hold an orientation or further images."""
_SIXTEEN_BIT = 1 << 16
_NO_CLASS = 254
"""What no class has as its index: there are at most 254 of them."""


def read_image(path: Path) -> np.ndarray:
    """Return the image as uint8 RGB (H, W, 3), upright; UserError where the file cannot be read."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        try:
            return _read_jpeg(path)
        except (OSError, RuntimeError, AttributeError):
            pass  # Pillow reads what only it can, and says what is wrong
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits per channel: convert it to 8 bits")
    if image.mode == "P":
        # Straight to RGB, Pillow warns of palettes with transparency.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_indices(path: Path) -> np.ndarray:
    """Return the raw values of an index mask, (H, W) of uint8 or uint16, upright; UserError for any other file."""
    if path.suffix.lower() == ".png":
        try:
            if (values := _read_plain_png(path)) is not None:
                return values
        except (OSError, ValueError, struct.error, zlib.error):
            pass  # Pillow says what is wrong
    mask = _open(path)
    if mask.mode in ("1", "L", "P"):
        return np.array(mask).astype(np.uint8, copy=False)
    if mask.mode.startswith("I"):
        values = np.array(mask)
        if values.min() >= 0 and values.max() < _SIXTEEN_BIT:
            return values.astype(np.uint16)
        raise UserError(f"{path} holds values from {values.min()} to {values.max()}: masks have 8 or 16 bits")
    raise UserError(
        f"{path} is a colour-coded mask (mode {mask.mode}): save it as a single-channel or palette PNG "
        "whose values are class indices"
    )


def _read_plain_png(path: Path) -> np.ndarray | None:
    # Index masks are mostly grey or palette PNGs of 8 bits without filters: nothing is left but to inflate them, which
    # takes half of Pillow's time. None for any other file.
    data = path.read_bytes()
    if data[:8] != _PNG or data[24:29] not in (b"\x08\0\0\0\0", b"\x08\3\0\0\0"):
        return None
    stream, at = b"", 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            stream += data[at + 8 : at + 8 + size]
        elif name in _PNG_WITH_MORE:
            return None
        at += 12 + size
    height, width = struct.unpack_from(">2I", data, 16)[::-1]
    rows = np.frombuffer(zlib.decompress(stream, bufsize=height * (width + 1)), np.uint8).reshape(height, width + 1)
    return None if rows[:, 0].any() else rows[:, 1:].copy()


def _read_jpeg(path: Path) -> np.ndarray:
    # The same pixels as Pillow's in two thirds of the time, a third where images are large. This is the operator of
    # torchvision.io.decode_jpeg, which warns that it will go one day: Pillow takes over then.
    data = torch.from_numpy(np.fromfile(path, np.uint8))
    image = torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value, True)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def stored_area(path: Path) -> int:
    """Return the number of pixels of an image, from its header; UserError where the file cannot be read."""
    with _pillow(path) as image:
        return image.width * image.height


def _open(path: Path) -> Image.Image:
    with _pillow(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return image


@contextmanager
def _pillow(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    # Pillow answers a broken PNG with SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read {path}, is the file damaged? ({error})") from None


class LabelTable:
    """Raw mask values to class indices.

    A value that the label map does not list stays what it is, if it is a class that no other value is mapped to, or the
    void; the key `other` catches all values not listed. Targets are class indices, class names, 255 or "ignore".
    """

    def __init__(self, classes: Sequence[str], label_map: Mapping[int | str, int | str]) -> None:
        self.num_classes = len(classes)
        targets = {value: _target(target, classes) for value, target in label_map.items()}
        other = targets.pop(OTHER, None)
        table = np.full(_SIXTEEN_BIT, -1 if other is None else other, np.int16)
        if other is None:
            kept = {*range(self.num_classes), IGNORE_INDEX} - (set(targets.values()) - {IGNORE_INDEX})
            table[list(kept)] = list(kept)
        for value, target in targets.items():
            if not isinstance(value, int) or not 0 <= value < _SIXTEEN_BIT:
                raise UserError(f"label_map lists {value!r}: its keys are mask values from 0 to 65535, or {OTHER!r}")
            table[value] = target
        self.table = table
        self.bytes = np.where(table < 0, _NO_CLASS, table)[:256].astype(np.uint8)
        self.is_identity = not label_map

    def __call__(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Return the mask as uint8 (H, W), void = 255; UserError where a value of the file is no class."""
        raw = np.ascontiguousarray(raw)
        if raw.dtype != np.uint8:
            mask = self.table[raw]
            wrong = (mask < 0).any()
        elif self.is_identity:
            mask = raw
            wrong = (raw + np.uint8(1)).max() > self.num_classes  # the void becomes 0
        else:
            mask = cv2.LUT(raw, self.bytes)
            wrong = (mask == _NO_CLASS).any()
        if wrong:
            raise UserError(f"{path} {self._complaint(raw)}")
        return mask.astype(np.uint8, copy=False)

    def _complaint(self, raw: np.ndarray) -> str:
        values, counts = np.unique(raw, return_counts=True)
        wrong = self.table[values] < 0
        shown = ", ".join(
            f"{value} ({count} pixels)" for value, count in zip(values[wrong][:5], counts[wrong][:5], strict=True)
        )
        more = f" and {wrong.sum() - 5} more" if wrong.sum() > 5 else ""
        return (
            f"holds the value {shown}{more}, but there are {self.num_classes} classes "
            f"(0 to {self.num_classes - 1}; 255 = void): {self._cure(values, values[wrong])}"
        )

    def _cure(self, values: np.ndarray, wrong: np.ndarray) -> str:
        if wrong.min() < self.num_classes:
            return f"label_map gives its class to another value, so list {wrong.min()} too, or set {OTHER}: ignore"
        if self.num_classes == 2 and len(wrong) == 1 and set(values.tolist()) <= {0, wrong[0]}:
            return f"for a binary mask set label_map={{{wrong[0]}: 1}}"
        if wrong.tolist() == [self.num_classes]:
            return f"is it the void? Then set label_map={{{wrong[0]}: 255}}"
        if self.num_classes == 19 and wrong.max() <= 33:
            return "these look like Cityscapes labelIds, which need a label_map"
        if len(wrong) > 16:
            return "grey levels, not class indices? Was the mask saved as JPEG, or resized with interpolation?"
        return "list the value in label_map, or its class in classes"


def _target(target: int | str, classes: Sequence[str]) -> int:
    if target in ("ignore", IGNORE_INDEX):
        return IGNORE_INDEX
    if target in classes:
        return classes.index(str(target))
    if isinstance(target, int) and 0 <= target < len(classes):
        return target
    close = get_close_matches(str(target), classes, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "give a class index, a class name or 'ignore'"
    raise UserError(f"label_map maps to {target!r}, which is none of the {len(classes)} classes: {hint}")
