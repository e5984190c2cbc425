"""Class lists in text files: names alone, or with colours or mask values as annotation tools write them."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segframe.data.label_map import IGNORE, format_colour, pack_colour
from segframe.data.split_lists import read_numbered_lines
from segframe.errors import UserError

FILE_NAMES = ("_classes.csv", "labelmap.txt", "class_dict.csv", "label_colors.txt")
"""Files with class names of Roboflow, CVAT, Kaggle's data sets and CamVid."""
FORMATS = (
    "give a text file with one name per line, Roboflow's _classes.csv (Pixel Value, Class), CVAT's labelmap.txt "
    "(label:r,g,b:parts:actions), CamVid's label_colors.txt (r g b name), or a table with the header name,r,g,b or "
    "id,name, where ids are 0, 1, 2, ..."
)
_COLUMNS = {
    "id": {"", "id", "index", "class id", "class_id"},  # pandas gives its index no name
    "value": {"pixel value"},
    "name": {"name", "class", "label", "class name", "class_name", "label name", "label_name"},
    **{"r": {"r", "red"}, "g": {"g", "green"}, "b": {"b", "blue"}},
}
"""Words of a table's header."""
_IDS = "write ids 0, 1, 2, ... in order, or if they are mask values the header Pixel Value, Class"
_CVAT = re.compile(r"(?P<name>[^:#]*):(?P<colour>[^:]*):[^:]*:[^:]*")
_CAMVID = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(.*\S)")
_NO_NAME = re.compile(r"[,;:#\t{}\[\]<>]|^- ")
"""Signs of other kinds of files: separators, comments, brackets of JSON and XML, the dash of a list in YAML."""
_NUMBERED = (r"^\d+\s+\S", r"\S(\s+\d+){3}$")
"""Patterns of all lines of a list of names with an index before, or a colour behind."""
_HEADERS = {"name", "names", "class", "classes", "class name", "class_name", "label", "labels"}

_LABELME_VOID = "__ignore__"
"""First line of labelme's labels.txt, which counts from -1."""

Line = tuple[int, str]


class ClassFile(NamedTuple):
    """The classes of a file, and how masks encode them."""

    names: list[str]
    palette: list[tuple[int, int, int]] | None = None
    """Colour of each class."""
    label_map: Mapping[int | str, int | str] = {}
    """Mask values that are no class indices, and void's colours."""


def find_class_files(root: Path) -> list[Path]:
    return [path for name in FILE_NAMES for place in (name, f"*/{name}") for path in sorted(root.glob(place))]


def read_class_file(path: Path) -> ClassFile:
    """Read a file in one of FORMATS; UserError with the line that does not fit."""
    lines = read_numbered_lines(path, f"data.dataset.classes is a list of names, or a file: {FORMATS}")
    delimiter = next((mark for mark in ",;\t" if mark in lines[0][1]), ",")

    def split(line: str) -> list[str]:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]

    header = [field.lower() for field in split(lines[0][1])]
    columns = [next((kind for kind, words in _COLUMNS.items() if field in words), "") for field in header]
    tables = ((["value", "name"], _parse_values), (["name", "r", "g", "b"], _parse_colours))
    for wanted, parse in (*tables, (["id", "name"], _parse_values)):
        if sorted(columns) in (sorted(wanted), sorted([*wanted, "id"])):
            fields = [(line, split(line[1])) for line in lines[1:]]
            table = [
                (line, dict(zip(columns, row, strict=True)) if len(row) == len(columns) else {}) for line, row in fields
            ]
            for k, (line, row) in enumerate(table if "id" in columns else []):
                if row and _integer(row["id"], 1 << 16) != k:
                    raise _error(path, line, f"has not the id {k}; {_IDS}")
            return parse(path, [(line, [row[kind] for kind in wanted] if row else []) for line, row in table])
    entries = [(line, _CVAT.fullmatch(line[1])) for line in lines if not line[1].startswith("#")]
    if entries and entries[0][1]:
        rows = [
            (line, [match["name"].strip(), *match["colour"].split(",")] if match else []) for line, match in entries
        ]
        return _parse_colours(path, rows)
    camvid = [(line, match) for line in lines if (match := _CAMVID.fullmatch(line[1]))]
    if len(camvid) == len(lines):
        return _parse_colours(path, [(line, [match[4], match[1], match[2], match[3]]) for line, match in camvid])
    wrong = [line for line in lines if _NO_NAME.search(line[1])]
    if not wrong and any(all(re.search(number, text) for _, text in lines) for number in _NUMBERED):
        wrong = lines
    if wrong:
        raise _error(path, wrong[0], f"is no name of a class ({len(wrong)} of {len(lines)} lines are none); {FORMATS}")
    if header[0] in _HEADERS:
        raise _error(path, lines[0], "seems to be a header; take the line out")
    return ClassFile([text.strip("\"'") for _, text in lines[lines[0][1] == _LABELME_VOID :]])


def _parse_values(path: Path, rows: Sequence[tuple[Line, list[str]]]) -> ClassFile:
    values: dict[int, str] = {}
    for line, row in rows:
        value = _integer(row[0], 1 << 16) if row else None
        if value is None or not row[1]:
            raise _error(path, line, "is no mask value and name; write it as 1, cat")
        if value in values:
            raise _error(path, line, f"repeats the mask value {value}; give each class a value of its own")
        values[value] = row[1]
    void: dict[int | str, int | str] = {value: IGNORE for value, name in values.items() if name == IGNORE}
    ordered = sorted(values.keys() - void.keys())
    names = [values[value] for value in ordered]
    if ordered == [*range(len(ordered))]:
        return ClassFile(names, label_map=void)
    return ClassFile(names, label_map={**{value: k for k, value in enumerate(ordered)}, **void})


def _parse_colours(path: Path, rows: Sequence[tuple[Line, list[str]]]) -> ClassFile:
    names: dict[tuple[int, int, int], str] = {}
    for line, row in rows:
        levels = [level for text in row[1:] if (level := _integer(text, 256)) is not None]
        if len(levels) != 3 or len(row) != 4 or not row[0]:
            raise _error(path, line, "is no name and colour; write three numbers from 0 to 255, as in cat,250,50,83")
        colour = levels[0], levels[1], levels[2]
        if colour in names:
            raise _error(path, line, f"repeats the colour of {names[colour]}; give each class a colour of its own")
        names[colour] = row[0]
    void: dict[int | str, int | str] = {
        format_colour(pack_colour(colour)): IGNORE for colour, name in names.items() if name == IGNORE
    }
    colours = [colour for colour, name in names.items() if name != IGNORE]
    return ClassFile([names[colour] for colour in colours], colours, void)


def _integer(text: str, end: int) -> int | None:
    return int(text) if re.fullmatch(r"\s*[0-9]{1,5}\s*", text) and int(text) < end else None


def _error(path: Path, line: Line, problem: str) -> UserError:
    number, text = line
    return UserError(f"data.dataset.classes={path}: line {number}, {text[:100]!r}, {problem}")
