"""Text files that list a split or the classes: their lines, and what a line says."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from segframe.data.file_listing import IMAGE_SUFFIXES, MASK_SUFFIXES, check_file, composed, require
from segframe.errors import UserError

LINE = "write a name, or an image and a mask below data.root with a space, a comma or a tab between them"
"""What a line of a split list is to be."""
MAX_BYTES = 1 << 28
"""Of a list at most: some million lines."""


def read_list(path: Path, advice: str) -> list[str]:
    """Return the lines of a split list, without blank ones; UserError where there are none."""
    return [line for _, line in numbered_lines(path, advice)]


def numbered_lines(path: Path, advice: str) -> list[tuple[int, str]]:
    """Return the lines of a split list, without blank ones, and their numbers from 1 on; UserError where there are
    none.
    """
    try:
        check_file(require(path, advice), "list", MAX_BYTES)
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{path} is no text in UTF-8 (it holds zero bytes, as UTF-16 does): save it as UTF-8")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} lists nothing: write a name on each line, or bring the whole file")
    return lines


def cuts(line: str) -> Iterator[tuple[str, str]]:
    """Yield what is before and after each comma, tab or space."""
    for cut in re.finditer(r"\s*[,;]\s*|\s+", line):
        yield line[: cut.start()], line[cut.end() :]


def pairs_in(line: str) -> list[tuple[str, str]]:
    """Return the ways to read a line as the paths of an image and a mask."""
    return [
        (left, right)
        for left, right in cuts(line)
        if _may_be(left, IMAGE_SUFFIXES) and _may_be(right, (*IMAGE_SUFFIXES, *MASK_SUFFIXES))
    ]


def _may_be(path: str, suffixes: tuple[str, ...]) -> bool:
    # No system has longer names, and to ask for one is an error.
    return Path(path).suffix.lower() in suffixes and all(len(os.fsencode(part)) < 256 for part in Path(path).parts)


def name_in(line: str) -> str:
    """Return the name that a line or a path stands for."""
    path = Path(composed(line))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
