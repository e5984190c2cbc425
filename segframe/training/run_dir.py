"""A run's folder: config.yaml, environment.json, result.json beside checkpoints, TensorBoard events and metrics.csv."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from segframe import distributed
from segframe.config import schema
from segframe.config.composition import chosen_options, output_folder, typed_overrides
from segframe.config.saved_run import check_same_parts, holds_run, started_with
from segframe.errors import UserError
from segframe.files import as_named, remove_temporary_files, write_json, write_text

if sys.platform != "win32":
    import fcntl

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "albumentations", "numpy")


def find_run_dir(config: DictConfig) -> tuple[Path, bool]:
    """The run's folder, which Hydra has made, and whether the run in it continues; UserError where it is another."""
    folder = as_named(output_folder())
    if config.resume not in (None, "auto") and Path(config.resume).resolve() != folder.resolve():
        raise UserError(f"resume={config.resume}: give it on the command line as resume=..., where it is read first")
    if config.resume and holds_run(folder):
        check_same_parts(folder, typed_overrides())  # of a sweep's job, which is composed anew
        return folder, True
    own_config = folder / "config.yaml"
    if any((folder / "checkpoints").glob("*.ckpt")):
        raise UserError(
            f"output_dir={folder}: the folder already holds a run; continue it with resume={folder}, or choose another"
        )
    if own_config.is_file() and "_target_: segframe." not in own_config.read_text(errors="replace"):
        raise UserError(f"output_dir={folder}: its config.yaml belongs to no run; choose another folder")
    return folder, False


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder; UserError where one does.

    POSIX record locks end with the process, however it ends. Forked data loading workers do not inherit them; the
    locks of flock(2), which the package filelock uses, they would hold for seconds after a run was killed.
    """
    if sys.platform == "win32" or distributed.rank() > 0:
        yield
        return
    path = folder / ".lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file).st_nlink:  # removed by the process that has just ended
                raise BlockingIOError
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"output_dir={folder}: another process is training in this folder; choose another one"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def write_start(folder: Path, config: DictConfig, trainer: Trainer) -> None:
    """Write config.yaml, and environment.json: versions, git commit, devices, command, the options it began with."""
    if distributed.rank() > 0:
        return
    for place in (folder, folder / "checkpoints"):
        remove_temporary_files(place)
    chosen = {group: option for group, option in chosen_options().items() if group in schema.groups()}
    environment = {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "git": git_commit(Path(__file__).parents[2]),
        "device": str(trainer.strategy.root_device),
        "devices": distributed.world(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": [HydraConfig.get().job.name, *typed_overrides()],
        "parts": started_with(folder) if config.resume else chosen,
    }
    write_json(folder / "environment.json", environment)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config))


def git_commit(root: Path) -> str | None:
    """The checkout's commit, marked where files differ from it; None for an installed package or without git."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def write_result(folder: Path, best: float | None, monitor: str, pruned: int | None = None) -> float:
    """Write result.json, the best value of the monitored metric, and return it; NaN where there is none.

    `pruned`: the validation after which the pruner of a search has ended the run.
    """
    result = {"monitor": monitor, "best": best} | ({} if pruned is None else {"pruned": pruned})
    if distributed.rank() == 0:
        write_json(folder / "result.json", result)
    return float("nan") if best is None else best
