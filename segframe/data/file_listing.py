"""Listing the files of a split and pairing images with masks; collection of problems with them."""

import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from segframe.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


class Problem(NamedTuple):
    """A problem with one file of a split, found without opening it."""

    kind: str
    file: str


NO_IMAGE = "mask, or name in a list, without an image"
NO_MASK = "image without a mask"
MISSING_FILE = "file in a list that does not exist"
SAME_NAME = "files that share a name"
LISTED_TWICE = "name listed twice"
INVALID_LINE = "line in a list that is neither a name nor an image and a mask"
JPEG_MASK = "mask stored as JPEG"

_collected: ContextVar[list[Problem] | None] = ContextVar("collected", default=None)


@contextmanager
def collect_problems() -> Iterator[list[Problem]]:
    """Collect problems with files, and leave the files out, instead of raising a UserError."""
    problems: list[Problem] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


def report_problem(kind: str, files: Iterable[str | Path]) -> bool:
    """Add a problem per file and return True if problems are collected; otherwise return False: the caller raises."""
    problems = _collected.get()
    if problems is None:
        return False
    problems.extend(Problem(kind, str(file)) for file in files)
    return True


class Sample(NamedTuple):
    """One image and its mask; a generated sample has empty paths."""

    name: str
    image: Path
    mask: Path


def require(path: Path, advice: str) -> Path:
    """Return the path; UserError with the advice if it does not exist."""
    if not path.exists():
        raise UserError(f"{path} does not exist: {advice}")
    return path


def check_file(path: Path, kind: str, max_bytes: int) -> None:
    """UserError if the path is no regular file or larger than `max_bytes`; OSError if it does not exist.

    Reading a device may fill the memory, reading a pipe without a writer never ends.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file, but a folder, a pipe or a device: put a file there")
    if status.st_size > max_bytes:
        raise UserError(
            f"{path} has {status.st_size:,} bytes, and no {kind} has more than {max_bytes:,}: is it another file?"
        )


def list_files(folder: Path, suffixes: tuple[str, ...], advice: str) -> dict[str, Path]:
    """Return the files with one of these suffixes (in any case) by stem, sorted; UserError if two share a stem."""
    found: dict[str, Path] = {}
    for path in sorted(require(folder, advice).iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        name = to_nfc(path.stem)
        if name in found:
            if report_problem(SAME_NAME, [path]):
                continue
            raise UserError(f"{path} and {found[name].name} share a name: keep one of them")
        found[name] = path
    return found


def to_nfc(name: str) -> str:
    """Return the name in Unicode's composed form (NFC); macOS may use the decomposed form."""
    return unicodedata.normalize("NFC", name)


def pair(names: Iterable[str], images: Mapping[str, Path], masks: Mapping[str, Path], where: str) -> list[Sample]:
    """Return a sample per name; UserError if a name has no image or no mask."""
    names = list(names)
    for kind, files in (("image", images), ("mask", masks)):
        missing = [name for name in names if name not in files]
        shown = [f"{where}: {name}" for name in missing] if kind == "image" else [images.get(n, n) for n in missing]
        if missing and not report_problem(NO_IMAGE if kind == "image" else NO_MASK, shown):
            raise UserError(
                f"{where}: {missing[0][:200]!r} has no {kind} ({len(missing)} of {len(names)} have none): "
                "scripts/check_data.py lists all that is missing"
            )
    return [Sample(name, images[name], masks[name]) for name in names if name in images and name in masks]


def disambiguate_names(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples; those of one name in several folders get their paths below the common folder as names."""
    counts = Counter(sample.name for sample in samples)
    images: dict[str, set[Path]] = defaultdict(set)
    for sample in samples:
        if counts[sample.name] > 1:
            images[sample.name].add(sample.image.absolute())
    shared = {name for name, paths in images.items() if len(paths) > 1}
    if not shared:
        return list(samples)  # an image may be listed twice
    top = os.path.commonpath([path.parent for name in shared for path in images[name]])
    return [
        sample._replace(name=sample.image.absolute().relative_to(top).with_suffix("").as_posix())
        if sample.name in shared
        else sample
        for sample in samples
    ]


def report_unpaired(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path) -> None:
    """Report masks without an image, and JPEGs in the folder of masks, which are not read as masks."""
    report_problem(NO_IMAGE, (path for name, path in masks.items() if name not in images))
    known = {*images.values(), *masks.values()}
    report_problem(JPEG_MASK, (path for path in sorted(folder.glob("*.[jJ][pP]*[gG]")) if path not in known))
