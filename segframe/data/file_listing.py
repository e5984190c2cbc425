"""Finding a split's files: listings by name, pairs of image and mask."""

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

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


class Problem(NamedTuple):
    """What is wrong with one file of a split before it is opened."""

    kind: str
    file: str


NO_IMAGE = "mask, or name in a list, without an image"
NO_MASK = "image without a mask"
LOST = "file in a list that does not exist"
TWINS = "files that share a name"
TWICE = "name listed twice"
UNREADABLE = "line in a list that is neither a name nor an image and a mask"
LOSSY = "mask stored as JPEG"

_noted: ContextVar[list[Problem] | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[list[Problem]]:
    """Within, what is wrong with files is noted here, and they are left out, instead of being raised."""
    problems: list[Problem] = []
    token = _noted.set(problems)
    try:
        yield problems
    finally:
        _noted.reset(token)


def note(kind: str, files: Iterable[str | Path]) -> bool:
    """Note files where problems are being noted; False elsewhere, where the caller raises."""
    problems = _noted.get()
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
    """Return the path; UserError with the advice where nothing is there."""
    if not path.exists():
        raise UserError(f"{path} does not exist: {advice}")
    return path


def check_file(path: Path, kind: str, most: int) -> None:
    """UserError where what is there is no regular file, or has more bytes than any of its kind; OSError where
    nothing is.

    Reading a device can take all memory, and a pipe without a writer waits for ever.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file, but a folder, a pipe or a device: put the file itself there")
    if status.st_size > most:
        raise UserError(
            f"{path} has {status.st_size:,} bytes, and no {kind} has more than {most:,}: is it another file?"
        )


def listing(folder: Path, suffixes: tuple[str, ...], advice: str) -> dict[str, Path]:
    """Return the folder's files with one of these suffixes (in any case) by name, sorted; UserError for twins."""
    found: dict[str, Path] = {}
    for path in sorted(require(folder, advice).iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        name = composed(path.stem)
        if name in found:
            if note(TWINS, [path]):
                continue
            raise UserError(f"{path} and {found[name].name} share a name: keep one of them")
        found[name] = path
    return found


def composed(name: str) -> str:
    """Return a name with each accent and its letter as one character, as most systems write it; macOS may not."""
    return unicodedata.normalize("NFC", name)


def pair(names: Iterable[str], images: Mapping[str, Path], masks: Mapping[str, Path], where: str) -> list[Sample]:
    """Return a sample per name; UserError naming the first name without image or mask, and how many there are."""
    names = list(names)
    for kind, files in (("image", images), ("mask", masks)):
        missing = [name for name in names if name not in files]
        shown = [f"{where}: {name}" for name in missing] if kind == "image" else [images.get(n, n) for n in missing]
        if missing and not note(NO_IMAGE if kind == "image" else NO_MASK, shown):
            raise UserError(
                f"{where}: {missing[0][:200]!r} has no {kind} ({len(missing)} of {len(names)} have none): "
                "scripts/check_data.py lists all that is missing"
            )
    return [Sample(name, images[name], masks[name]) for name in names if name in images and name in masks]


def disambiguate_names(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples; images of one name in several folders are called by their paths from where these part."""
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


def note_strays(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path) -> None:
    """Note masks that belong to no image, and JPEGs in the masks' folder, which are not taken for masks."""
    note(NO_IMAGE, (path for name, path in masks.items() if name not in images))
    known = {*images.values(), *masks.values()}
    note(LOSSY, (path for path in sorted(folder.glob("*.[jJ][pP]*[gG]")) if path not in known))
