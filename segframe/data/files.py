"""Finding a split's files: listings by stem, split lists, pairs of image and mask."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from segframe.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


class Sample(NamedTuple):
    """One image and its mask; a generated sample has empty paths."""

    name: str
    image: Path
    mask: Path


def require(path: Path, cure: str) -> Path:
    """Return the path; UserError with the cure where nothing is there."""
    if not path.exists():
        raise UserError(f"{path} does not exist: {cure}")
    return path


def listing(folder: Path, suffixes: tuple[str, ...], cure: str) -> dict[str, Path]:
    """Return the folder's files with one of these suffixes (in any case) by stem, sorted; UserError for twins."""
    found: dict[str, Path] = {}
    for path in sorted(require(folder, cure).iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise UserError(f"{path} and {found[path.stem].name} share a name: keep one of them")
        found[path.stem] = path
    return found


def read_list(path: Path, cure: str) -> list[str]:
    """Return the lines of a split list, without blank ones."""
    try:
        text = require(path, cure).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}): {cure}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def pair(names: Iterable[str], images: Mapping[str, Path], masks: Mapping[str, Path], where: str) -> list[Sample]:
    """Return a sample per name; UserError naming the first name without image or mask, and how many there are."""
    names = list(names)
    for kind, files in (("image", images), ("mask", masks)):
        if missing := [name for name in names if name not in files]:
            raise UserError(f"{where}: {missing[0][:200]!r} has no {kind} ({len(missing)} of {len(names)} have none)")
    return [Sample(name, images[name], masks[name]) for name in names]
