"""Cache of decoded samples, in memory shared by all processes or in a file that later runs reuse."""

import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segframe.data.pixel_format import PixelFormat
from segframe.errors import UserError

HEADER_BYTES = 64
"""Size of the header: file format and a hash of the split."""
RECORD = np.dtype(
    [("stamp", "<i8", 4), ("start", "<i8"), ("reserved", "<i8"), ("height", "<i4"), ("width", "<i4"), ("filled", "<i8")]
)
"""Two numbers of the image and two of the mask, as size and mtime of their files; first byte and reserved bytes; height
and width, valid if filled."""

Pair = tuple[np.ndarray, np.ndarray]


class Cache:
    """The decoded images and masks of one split; each is stored by the worker that reads it first.

    Layout: header, one record per sample, then for each sample, page-aligned, image (H, W, C) of uint8 or uint16 and
    mask (H, W) of uint8.
    Samples whose files have changed are read again. Samples larger than the bytes reserved for them, or
    of other channels than the config's, are not stored.
    `file` None: the buffer is memory.
    """

    def __init__(self, buffer: mmap.mmap, num_samples: int, pixels: PixelFormat, file: Path | None) -> None:
        self.file = file
        self.pixels = pixels
        self.index = np.frombuffer(buffer, RECORD, num_samples, HEADER_BYTES)
        self.bytes = np.frombuffer(buffer, np.uint8)
        self.descriptor = None if file is None else os.open(file, os.O_RDWR)
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)

    def read(self, index: int, stamp_of: Callable[[int], list[int]], load: Callable[[int], Pair]) -> Pair:
        """Return image and mask of a sample, read-only.

        `stamp_of` returns four numbers that change with its files; `load` reads them if they are not cached.
        """
        record = self.index[index]
        try:
            stamp = stamp_of(index)
        except OSError:
            return load(index)  # raises the error about the missing file
        if not record["filled"] or record["stamp"].tolist() != stamp:
            image, mask = load(index)
            fits = image.shape[2:] == (self.pixels.channels,) and image.dtype == self.pixels.depth
            if not fits or image.nbytes + mask.size > record["reserved"]:
                return image, mask
            record["filled"] = 0
            self._write(int(record["start"]), np.concatenate([image.ravel().view(np.uint8), mask.ravel()]))
            record["stamp"], (record["height"], record["width"]) = stamp, mask.shape
            record["filled"] = 1
        start, height, width = int(record["start"]), int(record["height"]), int(record["width"])
        split = self.pixels.pixel_bytes * height * width
        content = self.bytes[start : start + split + height * width]
        content.flags.writeable = False
        image = content[:split].view(self.pixels.depth).reshape(height, width, self.pixels.channels)
        return image, content[split:].reshape(height, width)

    def _write(self, start: int, pixels: np.ndarray) -> None:
        if self.descriptor is None:
            self.bytes[start : start + pixels.size] = pixels
            return
        # Not through the mapping: on a full disk that kills the process (SIGBUS). Synchronised before the record is
        # marked as filled: a power cut would leave black images.
        try:
            done = 0
            while done < pixels.size:
                done += os.pwrite(self.descriptor, pixels[done:].data, start + done)
            os.fsync(self.descriptor)
        except OSError as error:
            raise UserError(f"cannot write to {self.file} ({error.strerror}): change data.cache_dir") from None

    def __reduce__(self) -> Any:
        if self.file is None:
            raise UserError(
                "data.cache=ram needs forked workers, which this system does not have: "
                "set data.num_workers=0 or data.cache=disk"
            )
        return open_cache, (self.file, len(self.index), self.pixels)


def open_cache(file: Path, num_samples: int, pixels: PixelFormat) -> Cache:
    with file.open("r+b") as opened:
        return Cache(mmap.mmap(opened.fileno(), 0), num_samples, pixels, file)
