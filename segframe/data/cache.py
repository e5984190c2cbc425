"""Cache of decoded samples, in memory shared by all workers or in a file that later runs reuse."""

import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segframe.data.file_listing import Sample
from segframe.errors import UserError

HEADER_BYTES = 64
"""Size of the header: file format and a hash of the split."""
RECORD = np.dtype(
    [("stamp", "<i8", 4), ("start", "<i8"), ("reserved", "<i8"), ("height", "<i4"), ("width", "<i4"), ("filled", "<i8")]
)
"""Size and mtime of image and mask files; first byte and reserved bytes; height and width, valid if filled."""

Pair = tuple[np.ndarray, np.ndarray]


class Cache:
    """The decoded images and masks of one split; each is stored by the worker that reads it first.

    Layout: header, one record per sample, then for each sample, page-aligned, image (H, W, 3) and mask (H, W), uint8.
    Samples whose files have changed in size or mtime are read again, and stored unless they exceed the reserved bytes.
    `file` None: the buffer is anonymous memory.
    """

    def __init__(self, buffer: mmap.mmap, num_samples: int, file: Path | None) -> None:
        self.file = file
        self.index = np.frombuffer(buffer, RECORD, num_samples, HEADER_BYTES)
        self.bytes = np.frombuffer(buffer, np.uint8)
        self.descriptor = None if file is None else os.open(file, os.O_RDWR)
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)

    def read(self, index: int, sample: Sample, load: Callable[[int], Pair]) -> Pair:
        """Return image and mask of a sample, read-only; `load` reads them if they are not cached."""
        record = self.index[index]
        try:
            files = os.stat(sample.image), os.stat(sample.mask)
        except OSError:
            return load(index)  # raises the error about the missing file
        stamp = [number for file in files for number in (file.st_size, file.st_mtime_ns)]
        if not record["filled"] or record["stamp"].tolist() != stamp:
            image, mask = load(index)
            if 4 * mask.size > record["reserved"]:
                return image, mask
            record["filled"] = 0
            self._write(int(record["start"]), np.concatenate([image.ravel(), mask.ravel()]))
            record["stamp"], (record["height"], record["width"]) = stamp, mask.shape
            record["filled"] = 1
        start, height, width = int(record["start"]), int(record["height"]), int(record["width"])
        pixels = self.bytes[start : start + 4 * height * width]
        pixels.flags.writeable = False
        split = 3 * height * width
        return pixels[:split].reshape(height, width, 3), pixels[split:].reshape(height, width)

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
        return open_cache, (self.file, len(self.index))


def open_cache(file: Path, num_samples: int) -> Cache:
    """Open the cache in a file."""
    with file.open("r+b") as opened:
        return Cache(mmap.mmap(opened.fileno(), 0), num_samples, file)
