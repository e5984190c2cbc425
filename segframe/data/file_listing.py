"""Listing the files of a split and pairing images with masks; collection of problems with them."""

import logging
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segframe.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
JPEG_SUFFIXES = (".jpg", ".jpeg")
OTHER_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".dng")
"""Suffixes of image files that datasets do not read; a warning counts such files."""

log = logging.getLogger(__name__)

Files = dict[str, Path]
"""Files by name: their path below a folder, without suffix."""


class Problem(NamedTuple):
    """A problem with one file of a split: its kind and the file."""

    kind: str
    file: str


NO_IMAGE = "listed without an image"
UNUSED_MASK = "mask without an image"
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
    """The file that holds the mask, maybe with those of other images."""


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


def find_folder(root: Path, *paths: str, suffixes: tuple[str, ...] = ()) -> Path | None:
    """Return the first of these paths that is a folder, below root or below a folder in root; None if none is.

    Archives are unpacked in one folder, or each in a folder of its own. `suffixes`: those of files it must hold.
    """
    candidates = (folder for path in paths for folder in (root / path, *sorted(root.glob(f"*/{path}"))))
    return next((folder for folder in candidates if folder.is_dir() and _holds(folder, suffixes)), None)


def require_folder(root: Path, *paths: str, advice: str, suffixes: tuple[str, ...] = ()) -> Path:
    """Return the folder that find_folder finds; UserError with the advice if there is none."""
    if (folder := find_folder(root, *paths, suffixes=suffixes)) is None:
        raise UserError(f"no {paths[0]} under {root}: {advice}")
    return folder


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    with os.scandir(folder) as entries:
        return not suffixes or any(entry.name.lower().endswith(suffixes) for entry in entries)


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size and time of modification of a file; OSError if it does not exist."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def list_files(folder: Path, suffixes: Sequence[str], advice: str, ending: str = "") -> dict[str, Path]:
    """Return the files with one of these suffixes (in any case) and this ending before it by name, sorted.

    If the folder itself has no such file, those of its sub-folders are returned: city/x is the name of city/x.png. An
    ending may contain the suffix: _mask.png. UserError if two files share a name.
    """
    stem_ending, dot, suffix = ending.rpartition(".")
    if dot and f".{suffix}".lower() in suffixes:
        ending, suffixes = stem_ending, (f".{suffix}".lower(),)
    found: dict[str, Path] = {}
    for path in _walk(require(folder, advice), tuple(suffixes)):
        name = to_nfc(path.relative_to(folder).with_suffix("").as_posix())
        if not name.endswith(to_nfc(ending)):
            continue
        name = name.removesuffix(to_nfc(ending))
        if name in found:
            if not report_problem(SAME_NAME, [path]):
                raise UserError(
                    f"{path} and {found[name].name} share a name: move the one that is not to be read to another "
                    f"folder, or set data.dataset.image_suffix or mask_suffix={ending}{path.suffix}, for example"
                )
            continue
        found[name] = path
    return found


def _walk(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
    if files := [path for path in paths if path.suffix.lower() in suffixes]:
        warn_of_unread(paths, folder, suffixes)
        return files
    top = folder.resolve()  # a link to a folder above would be walked for ever
    below = [path for path in paths if path.is_dir() and not top.is_relative_to(path.resolve())]
    return [file for path in below for file in _walk(path, suffixes)]


def warn_of_unread(paths: Iterable[Path], folder: Path, suffixes: Sequence[str]) -> None:
    """Log a warning, once for a folder, if images are left out because their suffix is none of those that are read."""
    left_out = [path for path in paths if path.suffix.lower() in OTHER_SUFFIXES and path.suffix.lower() not in suffixes]
    if left_out:
        kinds = ", ".join(sorted({path.suffix for path in left_out}))
        _log_once(f"{folder}: {len(left_out)} files are left out ({kinds}); convert them to PNG or JPEG")


@cache
def _log_once(message: str) -> None:
    log.warning(message)


def to_nfc(name: str) -> str:
    """Return the name in Unicode's composed form (NFC); macOS may use the decomposed form."""
    return unicodedata.normalize("NFC", name)


def pair(
    names: Sequence[str],
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    where: str,
    explain: Callable[[str], str] = lambda name: "",
) -> list[Sample]:
    """Return a sample per name; UserError if a name has no image or no mask, `explain` adds why the mask is missing."""
    no_image = [name for name in names if name not in images]
    there = [name for name in names if name in images]
    no_mask = [name for name in there if name not in masks]
    advice = "scripts/check_data.py lists all that is missing"
    if no_image and not report_problem(NO_IMAGE, (f"{where}: {name}" for name in no_image)):
        raise UserError(f"{where}: {no_image[0][:200]!r} has no image{_count(no_image, names)}: {advice}")
    if no_mask and not report_problem(NO_MASK, (images[name] for name in no_mask)):
        advice = explain(no_mask[0]) or advice
        raise UserError(f"{where}: {no_mask[0][:200]!r} has no mask{_count(no_mask, names)}: {advice}")
    return [Sample(PurePosixPath(n).name, images[n], masks[n]) for n in there if n in masks]


def pair_all(
    images: Files, masks: Files, folder: Path, explain: Callable[[str], str] = lambda name: ""
) -> list[Sample]:
    """Return a sample per image of a folder, see pair; masks without an image are reported."""
    report_problem(UNUSED_MASK, (path for name, path in masks.items() if name not in images))
    return pair([*images], images, masks, str(folder), explain)


def hash_to_unit(name: str) -> float:
    """Return a number in 0 ... 1, uniform over names."""
    return int.from_bytes(sha256(name.encode()).digest()[:8]) / 2**64


def _count(without: Sequence[str], names: Sequence[str]) -> str:
    return f" ({len(without)} of {len(names)} have none)" if len(names) > 1 else ""


def disambiguate_names(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples; those of one name in several folders get their paths below the common folder as names."""
    images: dict[str, set[Path]] = {}
    for sample in samples:
        images.setdefault(sample.name, set()).add(sample.image)
    shared = {name for name, paths in images.items() if len(paths) > 1}  # an image may be listed twice
    if not shared:
        return list(samples)
    top = os.path.commonpath([path.absolute().parent for name in shared for path in images[name]])
    return [
        sample._replace(name=(sample.image.absolute().parent.relative_to(top) / sample.name).as_posix())
        if sample.name in shared
        else sample
        for sample in samples
    ]
