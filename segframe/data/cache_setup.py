"""Where the caches of decoded samples are made: which store is whose, and whether there is room."""

import mmap
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.cache import HEAD, RECORD, Cache, open_cache
from segframe.data.image_io import stored_area
from segframe.errors import UserError

MAGIC = b"segframe decoded samples, 2".ljust(HEAD - 32)
"""The number is raised where files of the same name would mean something else."""


def add_caches(datasets: Sequence[SegmentationDataset], kind: str, folder: str | None) -> None:
    """Let datasets keep their decoded samples: `kind` "ram", or "disk" in the folder (None: .segframe below root).

    UserError where there is not enough room for all of them.
    """
    if kind not in ("ram", "disk"):
        raise UserError(f"data.cache={kind}: it is ram, disk or null")
    stores = [Store(dataset) for dataset in datasets]
    # Training and validation may be the same split.
    different = list({store.name: store for store in stores}.values())
    place = Path(folder) if folder is not None else datasets[0].root / ".segframe"
    caches = _in_memory(different) if kind == "ram" else _on_disk(different, place.expanduser())
    found = dict(zip((store.name for store in different), caches, strict=True))
    for dataset, store in zip(datasets, stores, strict=True):
        dataset.cache = found[store.name]


class Store:
    """A split's store, whether it is there yet or not."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        kind = type(dataset)
        if dataset.samples[0].image == Path():
            raise UserError(f"data.cache is set, but {kind.__name__} reads no files: set data.cache=null")
        index = np.zeros(len(dataset), RECORD)
        index["room"] = [_pages(4 * stored_area(sample.image)) for sample in dataset.samples]
        ends = _pages(HEAD + index.nbytes) + np.cumsum(index["room"])
        index["start"] = ends - index["room"]
        paths = [os.path.abspath(path) for sample in dataset.samples for path in (sample.image, sample.mask)]
        labels = dataset.labels
        told = (
            kind.__module__,
            kind.__name__,
            dataset.classes,
            paths,
            dataset.palette,
            labels.listed_colours,
            labels.other,
        )
        metadata = repr(told).encode() + labels.table.tobytes()
        digest = sha256(metadata).digest()
        self.num_samples = len(index)
        self.size = int(ends[-1])
        self.head = MAGIC + digest + index.tobytes()
        self.name = f"{kind.__name__.lower()}_{dataset.split}_{digest.hex()[:12]}"

    def in_memory(self) -> Cache:
        """Return an empty cache in memory."""
        buffer = mmap.mmap(-1, self.size)
        buffer[: len(self.head)] = self.head
        return Cache(buffer, self.num_samples, None)

    def is_in(self, file: Path) -> bool:
        """Whether the file is this store; not so where files have changed so that its layout does not fit."""
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        with file.open("rb") as opened:
            return opened.read(HEAD) == self.head[:HEAD]

    def missing(self, file: Path) -> int:
        """Return how many bytes the file would still grow by on the disk."""
        return self.size - 512 * file.stat().st_blocks if self.is_in(file) else self.size

    def on_disk(self, file: Path) -> Cache:
        """Return the cache in the file, an empty one unless it is there."""
        if not self.is_in(file):
            # Made under another name: no run may find half a head.
            unfinished = file.with_suffix(f".{uuid4().hex}")
            with unfinished.open("wb") as opened:
                opened.write(self.head)
                opened.truncate(self.size)
            os.replace(unfinished, file)
        return open_cache(file, self.num_samples)


def _in_memory(stores: Sequence[Store]) -> list[Cache]:
    needed, free = sum(store.size for store in stores), free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"data.cache=ram needs {_gigabytes(needed)} and {_gigabytes(free)} are free: set data.cache=disk or null"
        )
    return [store.in_memory() for store in stores]


def _on_disk(stores: Sequence[Store], folder: Path) -> list[Cache]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{store.name}.cache" for store in stores]
        needed = sum(store.missing(file) for store, file in zip(stores, files, strict=True))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"data.cache=disk needs {_gigabytes(needed)} more in {folder} and {_gigabytes(free)} are free there: "
                "point data.cache_dir at another disk, or set data.cache=null"
            )
        return [store.on_disk(file) for store, file in zip(stores, files, strict=True)]
    except OSError as error:
        raise UserError(f"data.cache=disk cannot write to {folder} ({error.strerror}): set data.cache_dir") from None


def free_memory() -> int | None:
    """Return the bytes of memory that can be had, as far as Linux and a container's limit say; None elsewhere."""
    found = []
    if (info := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":") for line in info.read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()).isdigit():
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts["inactive_file"])  # what can be given back
        found.append(int(limit) - used)
    return min(found, default=None)


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
