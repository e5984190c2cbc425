"""Atomic writing and safe reading of a run's checkpoints."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segframe.config.old_names import CLASSES
from segframe.errors import UserError
from segframe.files import atomic_write, remove_temporary_files
from segframe.models.weights import checkpoint

RUN_KEYS = (checkpoint.KEY, "state_dict", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""The entries of a checkpoint that resuming needs."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin with atomic writes and weights_only reads; UserError where the disk is full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        assert storage_options is None
        with atomic_write(Path(path), "free some space and continue with resume=") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint on the CPU; UserError where it is damaged or of no run."""
        content = checkpoint.load_file(Path(path))
        if lacking := [key for key in RUN_KEYS if not isinstance(content.get(key), dict | list | int)]:
            raise UserError(f"{path} has no {lacking[0]}: it is not the checkpoint of a run")
        checkpoint.parse_run(content, Path(path))
        # Lightning stores callbacks' states by their class's name.
        content["callbacks"] = {CLASSES.get(key, key): state for key, state in content["callbacks"].items()}
        return content


def find_resume_checkpoint(folder: Path) -> Path:
    """The checkpoint to resume from: last.ckpt, or the newest undamaged one with a message about the damaged ones.

    UserError where there is none. Temporary files of a killed process are removed.
    """
    remove_temporary_files(folder)
    damaged = []
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: (path.name != "last.ckpt", -path.stat().st_mtime)):
        try:
            checkpoint.verify_checksums(path)
        except UserError as error:
            damaged.append(str(error))
        else:
            for message in damaged:
                print(f"{message}; resuming from {path.name}", flush=True)
            return path
    raise UserError("; ".join(damaged) or f"there is no checkpoint in {folder}, so no run to continue")
