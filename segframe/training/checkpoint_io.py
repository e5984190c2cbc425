"""How checkpoints reach the disk and come back: whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segframe.config.old_names import RENAMED
from segframe.errors import UserError
from segframe.files import atomic_write, remove_temporary_files
from segframe.models.weights import checkpoint

A_RUN = (checkpoint.KEY, "state_dict", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What a run needs of a checkpoint to go on from it."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Has Lightning replace a checkpoint as a whole; UserError where the disk is full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replaces the file at `path`."""
        assert storage_options is None
        with atomic_write(Path(path), "make room and continue with resume=") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint as plain containers and tensors, on the CPU; UserError where it is damaged or no run's."""
        content = checkpoint.load_file(Path(path))
        if lacking := [key for key in A_RUN if not isinstance(content.get(key), dict | list | int)]:
            raise UserError(f"{path} holds no {lacking[0]}: it is not the checkpoint of a run")
        checkpoint.parse_run(content, Path(path))
        # By their class, as Lightning keeps them.
        old = {name.rpartition(".")[2]: new.rpartition(".")[2] for name, new in RENAMED.items()}
        content["callbacks"] = {old.get(key, key): state for key, state in content["callbacks"].items()}
        return content


def find_resume_checkpoint(folder: Path) -> Path:
    """The checkpoint that a run goes on from: last.ckpt, or where it is damaged the newest whole one, and says so.

    UserError where none is whole. What a killed process had begun to write is removed.
    """
    remove_temporary_files(folder)
    newest = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    damaged = []
    for path in sorted(newest, key=lambda path: path.name != "last.ckpt"):
        try:
            checkpoint.verify_checksums(path)
        except UserError as error:
            damaged.append(str(error))
        else:
            for sentence in damaged:
                print(f"{sentence}; going on from {path.name}")
            return path
    raise UserError("; ".join(damaged) or f"there is no checkpoint in {folder}, so no run to continue")
