"""Creation of the caches of decoded samples: names, layout, free space."""

import ctypes
import mmap
import os
import shutil
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np

from segframe import distributed
from segframe.data.base import SegmentationDataset
from segframe.data.cache import HEADER_BYTES, RECORD, Cache, open_cache
from segframe.data.image_io import read_header
from segframe.errors import UserError

MAGIC = b"segframe decoded samples, 4".ljust(HEADER_BYTES - 32)
"""File format; the number is its version."""

MFD_CLOEXEC = 1  # sys/mman.h


def add_caches(
    datasets: Sequence[SegmentationDataset], kind: str | None, folder: str | None, limit: float | None = None
) -> None:
    """Give datasets a cache: `kind` "ram", "disk" in the folder (None: .segframe below root), or None: no cache.

    `limit`: GB of "ram" for all of them; samples beyond it are read from their files. All processes of a machine share
    the caches, and all call this. UserError if there is not enough space.
    """
    if limit is not None and kind != "ram":
        raise UserError(f"data.cache_limit={limit}: it limits data.cache=ram; set data.cache_limit=null")
    if kind is None:
        return
    stores = [Store(dataset) for dataset in datasets]
    # Training and validation may be the same split.
    different = list({store.name: store for store in stores}.values())
    if limit is not None:
        left = limit * 1e9
        for store in different:
            store.shorten(left)
            left -= store.size
    location = Path(folder) if folder is not None else datasets[0].root / ".segframe"
    caches = _make_in_memory(different) if kind == "ram" else _make_on_disk(different, location.expanduser())
    found = dict(zip((store.name for store in different), caches, strict=True))
    for dataset, store in zip(datasets, stores, strict=True):
        dataset.cache = found[store.name]


class Store:
    """Name, size and header of the cache of a split, whether it exists or not."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        kind = type(dataset)
        if not dataset.reads_files:
            raise UserError(
                f"data.cache is set, but {kind.__name__} is generated, or reads its files itself: set data.cache=null"
            )
        index = np.zeros(len(dataset), RECORD)
        headers = [read_header(sample.image) for sample in dataset.samples]
        index["reserved"] = [
            _round_to_pages((1 + dataset.pixels.pixel_bytes) * header.height * header.width) for header in headers
        ]
        paths = [os.path.abspath(path) for sample in dataset.samples for path in (sample.image, sample.mask)]
        labels = dataset.labels
        settings = dataset.pixels, dataset.classes, paths, labels.palette, labels.listed_colours, labels.other
        identity = (
            repr((kind.__module__, kind.__name__, *settings, *dataset.mask_settings)).encode() + labels.table.tobytes()
        )
        digest = sha256(identity).digest()
        self.num_samples, self.pixels = len(index), dataset.pixels
        self.name = f"{kind.__name__.lower()}_{dataset.split}_{digest.hex()[:12]}"
        self.begin, self.index = MAGIC + digest, index
        self._lay_out()

    def _lay_out(self) -> None:
        ends = _round_to_pages(HEADER_BYTES + self.index.nbytes) + np.cumsum(self.index["reserved"])
        self.index["start"] = ends - self.index["reserved"]
        self.size = int(ends[-1])
        self.head = self.begin + self.index.tobytes()

    def shorten(self, size: float) -> None:
        """Limit the cache to `size` bytes: samples that would end beyond it are not cached."""
        self.index["reserved"][self.index["start"] + self.index["reserved"] > size] = 0
        self._lay_out()

    def in_memory(self, descriptor: int = -1) -> Cache:
        """Create an empty cache in anonymous memory, or open the one in a memory that has a file descriptor."""
        buffer = mmap.mmap(descriptor, self.size)
        if descriptor == -1:
            buffer[: len(self.head)] = self.head
        return Cache(buffer, self.num_samples, self.pixels, None)

    def shared_memory(self) -> int:
        """Create an empty cache in memory that other processes can open; returns its file descriptor.

        Unlike /dev/shm it has no limit of size, and vanishes with its last user.
        """
        # Not os.memfd_create, which conda's Python lacks.
        descriptor: int = ctypes.CDLL(None, use_errno=True).memfd_create(b"segframe", MFD_CLOEXEC)
        if descriptor < 0:
            raise UserError(f"data.cache=ram: {os.strerror(ctypes.get_errno())}; set data.cache=disk")
        os.write(descriptor, self.head)
        os.ftruncate(descriptor, self.size)
        return descriptor

    def is_in(self, file: Path) -> bool:
        """Whether the file holds this cache, with the same layout."""
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        with file.open("rb") as opened:
            return opened.read(HEADER_BYTES) == self.head[:HEADER_BYTES]

    def missing(self, file: Path) -> int:
        """Return the bytes by which the file will still grow on the disk."""
        return self.size - 512 * file.stat().st_blocks if self.is_in(file) else self.size

    def create(self, file: Path) -> None:
        if not self.is_in(file):
            # Written under another name, so that no run opens a partial header.
            unfinished = file.with_suffix(f".{uuid4().hex}")
            with unfinished.open("wb") as opened:
                opened.write(self.head)
                opened.truncate(self.size)
            os.replace(unfinished, file)


def _make_in_memory(stores: Sequence[Store]) -> list[Cache]:
    if distributed.local_rank() == 0:
        needed, free = sum(store.size for store in stores), free_memory()
        if free is not None and needed > free:
            raise UserError(
                f"data.cache=ram needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: set data.cache=disk, or "
                "data.cache_limit to the GB that it may take"
            )
    if distributed.world() == 1:
        return [store.in_memory() for store in stores]
    if sys.platform != "linux":
        raise UserError("data.cache=ram: several processes share memory on Linux only; set data.cache=disk")
    return _share_memory(stores)


def _share_memory(stores: Sequence[Store]) -> list[Cache]:
    """The caches in memory of the first process of each machine, which the others open as its file descriptors."""
    machine = Path("/proc/sys/kernel/random/boot_id").read_text()
    own = [store.shared_memory() for store in stores] if distributed.local_rank() == 0 else []
    found = distributed.gather((machine, [f"/proc/{os.getpid()}/fd/{number}" for number in own]))
    files = next(files for name, files in found if name == machine and files)
    try:
        opened = [os.open(file, os.O_RDWR) for file in files]
    except OSError as error:
        raise UserError(
            f"data.cache=ram: a process may not open the memory of another ({error}); set data.cache=disk"
        ) from None
    caches = [store.in_memory(descriptor) for store, descriptor in zip(stores, opened, strict=True)]
    distributed.wait_for_all()
    for descriptor in own + opened:
        os.close(descriptor)
    return caches


def _make_on_disk(stores: Sequence[Store], folder: Path) -> list[Cache]:
    files = [folder / f"{store.name}.cache" for store in stores]
    try:
        with distributed.first_of_machine_first():
            folder.mkdir(parents=True, exist_ok=True)
            needed = sum(store.missing(file) for store, file in zip(stores, files, strict=True))
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise UserError(
                    f"data.cache=disk needs {needed / 1e9:.1f} GB more in {folder} and {free / 1e9:.1f} GB are free "
                    "there: point data.cache_dir at another disk, or set data.cache=null"
                )
            for store, file in zip(stores, files, strict=True):
                store.create(file)
        # Several machines may have replaced one another's files; all open the last.
        return [open_cache(file, store.num_samples, store.pixels) for store, file in zip(stores, files, strict=True)]
    except OSError as error:
        raise UserError(f"data.cache=disk cannot write to {folder} ({error.strerror}): set data.cache_dir") from None


def free_memory() -> int | None:
    """Return the available memory in bytes, within the limit of a container; None if not on Linux."""
    found = []
    if (info := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":") for line in info.read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()).isdigit():
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts["inactive_file"])  # can be reclaimed
        found.append(int(limit) - used)
    return min(found, default=None)


def _round_to_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
