"""Decoded samples, in memory that all workers share or in a file that later runs find again."""

import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segframe.data.file_listing import Sample
from segframe.errors import UserError

HEAD = 64
"""Bytes before the index: what the file is, and which split's."""
RECORD = np.dtype(
    [("stamp", "<i8", 4), ("start", "<i8"), ("room", "<i8"), ("height", "<i4"), ("width", "<i4"), ("filled", "<i8")]
)
"""Size and mtime of image and of mask; first byte and number of bytes; what is there, if it is filled."""

Pair = tuple[np.ndarray, np.ndarray]


class Cache:
    """The decoded images and masks of one split, filled by whichever worker reads a sample first.

    A head, an index of one record per sample, then each sample's image (H, W, 3) and mask (H, W), uint8, on pages of
    its own. A sample whose files have another size or mtime than when they were read is read again; where it has grown
    out of its room, each time. `file` None: the buffer is anonymous memory, gone with the last process that maps it.
    """

    def __init__(self, buffer: mmap.mmap, num_samples: int, file: Path | None) -> None:
        self.file = file
        self.index = np.frombuffer(buffer, RECORD, num_samples, HEAD)
        self.bytes = np.frombuffer(buffer, np.uint8)
        self.descriptor = None if file is None else os.open(file, os.O_RDWR)
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)

    def read(self, index: int, sample: Sample, load: Callable[[int], Pair]) -> Pair:
        """Return a sample's image and mask, read-only; `load` reads its files where they are not here yet."""
        record = self.index[index]
        try:
            files = os.stat(sample.image), os.stat(sample.mask)
        except OSError:
            return load(index)  # it says what is missing
        stamp = [number for file in files for number in (file.st_size, file.st_mtime_ns)]
        if not record["filled"] or record["stamp"].tolist() != stamp:
            image, mask = load(index)
            if 4 * mask.size > record["room"]:
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
        # Not through the mapping: on a full disk that kills the process. What is called filled is on the disk before,
        # or a power cut would leave black images.
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
                "data.cache=ram is shared by forked workers, and here they are not forked: "
                "set data.num_workers=0 or data.cache=disk"
            )
        return open_cache, (self.file, len(self.index))


def open_cache(file: Path, num_samples: int) -> Cache:
    """Return the cache in a file."""
    with file.open("r+b") as opened:
        return Cache(mmap.mmap(opened.fileno(), 0), num_samples, file)
