"""Atomic file writes."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any, BinaryIO

from segframe.errors import UserError


@contextmanager
def atomic_write(path: Path, advice: str = "") -> Iterator[BinaryIO]:
    """Write to a temporary file beside `path`, which replaces it once all is on the disk.

    A process that is killed meanwhile, or a full disk, leaves `path` as it was. UserError, ending in `advice`, where
    the operating system refuses the write.
    """
    unfinished = temporary_path(path)
    kept = f"; {path.name} is still the one from before" if path.is_file() else ""
    try:
        with translate_write_errors(path, advice, kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name too
            finally:
                os.close(folder)
    except BaseException:
        if unfinished.is_file():
            unfinished.unlink()
        raise


@contextmanager
def translate_write_errors(path: Path, advice: str = "", kept: str = "") -> Iterator[None]:
    """Turn the operating system's error for a write to `path` into a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError
        reason = system_error(error)
        if reason is None:
            raise
        raise UserError(f"cannot write {path} ({reason}){kept}{advice and f': {advice}'}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON atomically, with null for NaN."""
    write_text(path, json.dumps(without_nan(content), indent=2) + "\n")


def without_nan(content: Any) -> Any:
    """Nested dicts and lists with None for NaN, which JSON lacks."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and isnan(content) else content


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table atomically, in UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def temporary_path(path: Path) -> Path:
    """The file that `atomic_write` fills before it replaces `path`."""
    return path.with_name(f".{path.name}.unfinished")


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder."""
    for path in folder.glob(temporary_path(Path("*")).name):
        path.unlink()


def system_error(error: BaseException) -> str | None:
    """The operating system's reason in an error or its causes; None where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def as_named(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
