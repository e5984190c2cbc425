"""How checkpoints reach the disk and come back: whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segframe import checkpoint
from segframe.errors import UserError


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is on the disk.

    Whenever the process is killed, its place holds the old one or the new one. UserError where the disk is full.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replaces the file at `path`."""
        assert storage_options is None
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = unfinished_at(path)
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name too
            finally:
                os.close(folder)
        except (OSError, RuntimeError) as error:
            unfinished.unlink(missing_ok=True)
            reason = written_error(error)
            if reason is None:
                raise
            kept = f"; {path.name} is still the one from before" if path.exists() else ""
            raise UserError(f"cannot write {path} ({reason}){kept}: make room and continue with resume=") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint as plain containers and tensors, on the CPU; UserError where it is damaged."""
        return checkpoint.read(Path(path))


def unfinished_at(path: Path) -> Path:
    """Where a checkpoint is written before it is moved to `path`."""
    return path.with_name(f".{path.name}.unfinished")


def written_error(error: BaseException) -> str | None:
    """What the system said of a write that failed, wherever in the chain of causes; None where it said nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def resume_from(folder: Path) -> Path:
    """The checkpoint that a run goes on from: last.ckpt, or where it is damaged the newest whole one, and says so.

    UserError where none is whole. What a killed process had begun to write is removed.
    """
    for unfinished in folder.glob(unfinished_at(Path("*")).name):
        unfinished.unlink()
    newest = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    damaged = []
    for path in sorted(newest, key=lambda path: path.name != "last.ckpt"):
        try:
            checkpoint.verify(path)
        except UserError as error:
            damaged.append(str(error))
        else:
            for sentence in damaged:
                print(f"{sentence}; going on from {path.name}")
            return path
    raise UserError("; ".join(damaged) or f"there is no checkpoint in {folder}, so no run to continue")
