"""Files that are there whole or not at all, whenever the process is killed and however full the disk is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from segframe.errors import UserError


@contextmanager
def atomic_write(path: Path, cure: str = "") -> Iterator[BinaryIO]:
    """A file beside `path`, moved there once the block has filled it and it is on the disk.

    UserError with the cure where the system does not let it be written; what `path` held before is kept then.
    """
    unfinished = temporary_path(path)
    kept = f"; {path.name} is still the one from before" if path.is_file() else ""
    try:
        with translate_write_errors(path, cure, kept):
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
def translate_write_errors(path: Path, cure: str = "", so: str = "") -> Iterator[None]:
    """Turns what the system says of a write to `path` that failed into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: what torch.save makes of it
        reason = system_error(error)
        if reason is None:
            raise
        raise UserError(f"cannot write {path} ({reason}){so}{cure and f': {cure}'}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a small file as a whole."""
    with atomic_write(path) as file:
        file.write(text.encode())


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is moved to `path`."""
    return path.with_name(f".{path.name}.unfinished")


def remove_temporary_files(folder: Path) -> None:
    """Removes what a killed process had begun to write in a folder."""
    for path in folder.glob(temporary_path(Path("*")).name):
        path.unlink()


def system_error(error: BaseException) -> str | None:
    """What the system said of a write that failed, wherever in the chain of causes; None where it said nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def as_named(folder: Path) -> Path:
    """A folder below the working directory as a user names it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
