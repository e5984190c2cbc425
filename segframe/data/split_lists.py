"""Text files that list the samples of a split or the classes."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    INVALID_LINE,
    MASK_SUFFIXES,
    MISSING_FILE,
    Files,
    Sample,
    check_file,
    pair,
    report_problem,
    require,
    to_nfc,
)
from segframe.errors import UserError

LINE_FORMAT = "write a name, or an image and a mask below data.root with a space, a comma or a tab between them"
"""Advice about invalid lines."""
MAX_BYTES = 1 << 28
"""Maximum size of a list: some million lines."""
MAX_CHARACTERS = 10_000
"""Maximum length of a line: two paths. All ways to read a line are tried, which takes quadratic time."""

_IMAGE_WORDS = frozenset(["image", "images", "img", "imgs", "photo", "input"])
_NAME_WORDS = frozenset(["file", "files", "filename", "name", "names", "path", "id"])
_MASK_WORDS = frozenset(
    ["mask", "masks", "label", "labels", "annotation", "segmentation", "seg", "gt", "truth", "target"]
)
_SPLIT_WORDS = frozenset(["split", "set"])
_OTHER_WORDS = _SPLIT_WORDS | {"ground", "index", "width", "height", "class"}


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


class Row(NamedTuple):
    """A line of a list in all ways to read it, the likeliest first."""

    number: int
    """The line's number in the file, from 1."""
    text: str
    pairs: list[tuple[str, str]]
    """Readings of the line as the paths of an image and a mask."""
    names: list[str]
    """Readings of the line as the name of an image."""


def read_rows(path: Path, advice: str, is_name: Callable[[str], bool]) -> list[Row]:
    """Return the lines of a list without comments (#) and a header of columns, unless `is_name` knows them."""
    lines = [line for line in read_numbered_lines(path, advice) if not line[1].startswith("#") or is_name(line[1])]
    columns = [set(re.findall(r"[a-z]+|\d+", field.lower())) for field in _fields(lines[0][1])] if lines else []
    known = _IMAGE_WORDS | _NAME_WORDS | _MASK_WORDS | _OTHER_WORDS
    if not any(columns) or not all(words <= known for words in columns) or is_name(lines[0][1]):
        numbered = [re.fullmatch(r"(.*?)(?:[\s,;]+\d+)+", line) for _, line in lines]
        # Oxford-IIIT Pet has class numbers behind each name.
        names = [[_unquote(match[1])] for match in numbered if match]
        extra = names if len(names) == len(lines) else [[] for _ in lines]
        rows = zip(lines, extra, strict=True)
        return [Row(number, line, parse_pairs(line), [_unquote(line), *more]) for (number, line), more in rows]
    for k, words in enumerate(columns):
        found = {fields[k] for _, line in lines[1:] if len(fields := _fields(line)) > k}
        if words & _SPLIT_WORDS and len(found) > 1:
            advice = "write a list for each split, data.dataset.splits={train: train.txt, val: val.txt}"
            raise UserError(f"{path} has the lines of several splits ({', '.join(sorted(found)[:5])}): {advice}")
    masks = [k for k, words in enumerate(columns) if words & _MASK_WORDS]
    images = [k for k, words in enumerate(columns) if words & (_IMAGE_WORDS | _NAME_WORDS) and k not in masks]
    images.sort(key=lambda k: (not columns[k] & _IMAGE_WORDS, "id" in columns[k]))
    return [_parse_columns(number, line, images[:1], masks[:1]) for number, line in lines[1:]]


def _parse_columns(number: int, line: str, images: Sequence[int], masks: Sequence[int]) -> Row:
    fields = dict(enumerate(_fields(line)))
    image, mask = ([fields[k] for k in columns if k in fields] for columns in (images, masks))
    pairs = [pair for pair in zip(image, mask, strict=False) if _is_pair(*pair)]
    return Row(number, line, pairs, image)


def _fields(line: str) -> list[str]:
    separator = next((sign for sign in "\t;," if sign in line), None)
    return [_unquote(field.strip()) for field in line.split(separator)]


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def split_at_separators(line: str) -> Iterator[tuple[str, str]]:
    """Yield the parts before and after each comma, tab or space, without quotes."""
    for cut in re.finditer(r"\s*[,;]\s*|\s+", line):
        yield _unquote(line[: cut.start()]), _unquote(line[cut.end() :])


def parse_pairs(line: str) -> list[tuple[str, str]]:
    """Return all ways to read a line as the paths of an image and a mask, maybe among other fields."""
    if pairs := [pair for pair in split_at_separators(line) if _is_pair(*pair)]:
        return pairs
    paths = [field for field in _fields(line) if Path(field).suffix.lower() in (*IMAGE_SUFFIXES, *MASK_SUFFIXES)]
    return [(paths[0], paths[1])] if len(paths) == 2 and _is_pair(*paths) else []


def _is_pair(image: str, mask: str) -> bool:
    suffixes = (*IMAGE_SUFFIXES, *MASK_SUFFIXES)
    return Path(image).suffix.lower() in IMAGE_SUFFIXES and Path(mask).suffix.lower() in suffixes


def parse_name(line: str) -> str:
    path = PurePosixPath(to_nfc(line).replace("\\", "/"))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


class ListedFiles:
    """The files below a root that the paths of a list name.

    The paths may be absolute, start with a slash below the root, have the backslashes of Windows or leading folders
    that another machine had: the same number of folders is left out of all paths, so that most of them exist.
    """

    def __init__(self, root: Path, listed: Sequence[str]) -> None:
        self.root = root
        examples = listed[:: len(listed) // 16 + 1]
        depth = max((len(_parts(path)) for path in examples), default=0)
        self.num_left_out = max(
            range(max(1, depth)), key=lambda n: sum(os.path.exists(self._find(path, n)) for path in examples)
        )

    def find(self, listed: str) -> Path:
        """Return the path of a file, in the Unicode form (NFC or NFD) that exists."""
        return self._find(listed, self.num_left_out)

    def _find(self, listed: str, num_left_out: int) -> Path:
        below = "/".join(_parts(listed)[num_left_out:])
        paths = [self.root / text for text in (listed, below)]
        if not listed.isascii():
            forms = [unicodedata.normalize(form, text) for text in (listed, below) for form in ("NFC", "NFD")]
            paths += [self.root / form for form in forms]
        return next((path for path in paths if os.path.exists(path)), self.root / listed)


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", path) if part]


def read_samples(
    path: Path, advice: str, root: Path, list_folders: Callable[[], tuple[Files, Files]], explain: Callable[[str], str]
) -> list[Sample]:
    """Return the images and masks that the lines of a list name.

    `list_folders` returns the images and masks that names stand for; it is not called for a list of paths. `explain`
    as in `pair`. UserError with the number of a line that names nothing.
    """
    reader = _ListReader(path, list_folders, explain)
    rows = read_rows(path, advice, reader.is_name)
    files = [ListedFiles(root, [pair[k] for row in rows for pair in row.pairs]) for k in (0, 1)]
    samples = [sample for row in rows for sample in reader.parse_row(row, *files)]
    if not samples:
        raise UserError(f"no line of {path} is an existing image and mask: {LINE_FORMAT}")
    return samples


class _ListReader:
    def __init__(
        self, path: Path, list_folders: Callable[[], tuple[Files, Files]], explain: Callable[[str], str]
    ) -> None:
        self.path, self.list_folders, self.explain = path, list_folders, explain

    def parse_row(self, row: Row, image_files: ListedFiles, mask_files: ListedFiles) -> list[Sample]:
        where = f"{self.path}, line {row.number}"
        pairs = [(image_files.find(image), mask_files.find(mask)) for image, mask in row.pairs]
        # A space may belong to a name: prefer the pair that exists.
        if both := next((both for both in pairs if all(map(os.path.exists, both))), None):
            return [Sample(to_nfc(both[0].stem), *both)]
        if pairs:
            missing = [file for file in pairs[0] if not os.path.exists(file)]
            if report_problem(MISSING_FILE, missing):
                return []
            raise UserError(f"{where}: {missing[0]} does not exist; bring the file, or correct the line")
        images, masks = self.list_folders()
        name = next((name for text in row.names if (name := self.find_name(text))), None)
        if name or not any(split_at_separators(row.text)):
            return pair([name or parse_name(row.text)], images, masks, where, self.explain)
        context = f"{where}, {row.text!r}"
        if report_problem(INVALID_LINE, [context]):
            return []
        raise UserError(f"{context} is neither the name of an image nor an image and a mask: {LINE_FORMAT}")

    def is_name(self, line: str) -> bool:
        try:
            return self.find_name(line) is not None
        except UserError:  # there are no such folders, which a list of paths does not need
            return False

    def find_name(self, text: str) -> str | None:
        """Return the name of the image that a listed name or path stands for."""
        if (name := to_nfc(text)) in self.names:
            return self.names[name]
        # A line with separators is a name only if its folders contain no name of another image.
        if any(parse_name(left) in self.names for left, _ in split_at_separators(str(PurePosixPath(text).parent))):
            return None
        return self.names.get(parse_name(text))

    @cached_property
    def names(self) -> dict[str, str | None]:
        """Names of the images by themselves, without folders and with endings; None if several images have one."""
        names: dict[str, str | None] = {}
        for name, path in self.list_folders()[0].items():
            for short in {name, PurePosixPath(name).name, to_nfc(path.stem)}:
                names[short] = name if names.get(short, name) == name else None
        return names
