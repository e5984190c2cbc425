"""Files that a program writes where the command line says: nothing else is overwritten, and they can be written."""

import json
from collections.abc import Callable
from pathlib import Path

from segframe.errors import UserError
from segframe.whole import unfinished_at, writing

PICTURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
"""How a picture's file begins, by its suffix."""


def check_report(setting: str, path: Path, *keys: str) -> None:
    """UserError where a report with these keys cannot be written to `path`, or would replace another file there."""
    check_place(f"{setting}={path}", path, lambda: has_keys(path, keys))


def check_picture(setting: str, path: Path) -> None:
    """UserError where a picture cannot be written to `path`, or would replace what is no picture of that format."""
    check_place(f"{setting}={path}", path, lambda: is_picture(path))


def check_place(given: str, path: Path, is_ours: Callable[[], bool]) -> None:
    """UserError where a file cannot be written to `path`, before work is done for it, or another one is there."""
    with writing(path):
        if path.is_dir():
            raise UserError(f"{given} is a folder: give the name of a file in it")
        if (path.exists() or path.is_symlink()) and not (path.is_file() and is_ours()):
            raise UserError(f"{given} is there already and nothing that this program has written: give another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished_at(path).open("wb").close()
        unfinished_at(path).unlink()


def has_keys(path: Path, keys: tuple[str, ...]) -> bool:
    """Whether a file holds a JSON object with these keys."""
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return False
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return content.keys() >= set(keys)


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture with its suffix does."""
    begin = PICTURES.get(path.suffix.lower() or ".png")
    with path.open("rb") as file:
        return begin is not None and file.read(len(begin)) == begin
