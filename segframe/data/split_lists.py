"""Text files that list the samples of a split or the classes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from segframe.data.file_listing import IMAGE_SUFFIXES, MASK_SUFFIXES, check_file, require, to_nfc
from segframe.errors import UserError

LINE_FORMAT = "write a name, or an image and a mask below data.root with a space, a comma or a tab between them"
"""Advice about invalid lines."""
MAX_BYTES = 1 << 28
"""Maximum size of a list: some million lines."""
MAX_CHARACTERS = 10_000
"""Maximum length of a line: two paths. All ways to read a line are tried, which takes quadratic time."""


def read_list(path: Path, advice: str) -> list[str]:
    """Return the lines of a list without blank ones; UserError if there are none."""
    return [line for _, line in read_numbered_lines(path, advice)]


def read_numbered_lines(path: Path, advice: str) -> list[tuple[int, str]]:
    """Return line numbers, from 1, and lines of a list without blank ones; UserError if there are none."""
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
    for number, line in lines:
        if len(line) > MAX_CHARACTERS:
            raise UserError(f"{path}, line {number}, has {len(line):,} characters: write a name on each line")
    return lines


def split_at_separators(line: str) -> Iterator[tuple[str, str]]:
    """Yield the parts before and after each comma, tab or space."""
    for cut in re.finditer(r"\s*[,;]\s*|\s+", line):
        yield line[: cut.start()], line[cut.end() :]


def parse_pairs(line: str) -> list[tuple[str, str]]:
    """Return all ways to read a line as the paths of an image and a mask."""
    return [
        (left, right)
        for left, right in split_at_separators(line)
        if _is_path(left, IMAGE_SUFFIXES) and _is_path(right, (*IMAGE_SUFFIXES, *MASK_SUFFIXES))
    ]


def _is_path(path: str, suffixes: tuple[str, ...]) -> bool:
    # The system raises an error for longer names.
    return Path(path).suffix.lower() in suffixes and all(len(os.fsencode(part)) < 256 for part in Path(path).parts)


def parse_name(line: str) -> str:
    """Return the sample name in a line or path."""
    path = Path(to_nfc(line))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
