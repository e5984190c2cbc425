"""A run's folder: config.yaml, environment.json, result.json beside checkpoints, events and metrics.csv."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from segframe.config import schema as schema
from segframe.config import validate
from segframe.config.old_names import RENAMED
from segframe.config.saved_run import computes, holds_run
from segframe.errors import UserError
from segframe.files import as_named, remove_temporary_files, write_text

if sys.platform != "win32":
    import fcntl

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "albumentations", "numpy")


def open_run_dir(config: DictConfig) -> Path:
    """Checks the config and sets its `output_dir` to the run's folder, which is returned."""
    folder = as_named(Path(HydraConfig.get().runtime.output_dir))
    config.output_dir = str(folder)
    if config.resume == "auto":
        config.resume = str(folder) if holds_run(folder) else None
    elif config.resume and Path(config.resume).resolve() != folder.resolve():
        raise UserError(f"resume={config.resume}: give it on the command line as resume=..., where it is read first")
    validate.check_parts(config)
    if config.resume:
        validate.fill_in(config)
        for path, node in validate.walk(OmegaConf.to_container(config), ""):
            if node.get("_target_") in RENAMED:
                OmegaConf.update(config, f"{path}._target_", RENAMED[node["_target_"]])
    validate.check_keys(config)
    if config.resume and computes(OmegaConf.to_container(config)):  # from the command line
        typed = OmegaConf.merge(OmegaConf.structured(schema.TrainConfig), config)
        assert isinstance(typed, DictConfig)
        config.merge_with(computed(typed))  # the folder's own config has no types, which would turn texts into numbers
    validate.check_targets(config)
    if not config.resume:
        validate.check_needs(config)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must be 0 or more and below 2**32, got {config.seed}")
    if not config.resume and any((folder / "checkpoints").glob("*.ckpt")):
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} holds checkpoints of a run but not its config.yaml: choose another output_dir")
        raise UserError(f"{folder} already holds a run; continue it with resume={folder}, or choose another output_dir")
    foreign = folder / "config.yaml"
    if not config.resume and foreign.is_file() and "_target_: segframe." not in foreign.read_text(errors="replace"):
        raise UserError(f"{foreign} is no run's and would be overwritten: choose another output_dir")
    return folder


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; UserError where one is in it.

    The lock ends with the process, however that ends. Workers of the loader do not hold it, as they would flock's.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / ".lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file).st_nlink:  # removed by who has just ended
                raise BlockingIOError
        except (BlockingIOError, PermissionError):
            raise UserError(f"another process is training in {folder}: choose another output_dir") from None
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def write_start(folder: Path, config: DictConfig, device: Any) -> None:
    """Writes config.yaml, and environment.json: versions, git commit, device. Everything has been built by then."""
    for place in (folder, folder / "checkpoints"):
        remove_temporary_files(place)
    environment = {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "git": git_commit(Path(__file__).parents[1]),
        "device": str(device),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": sys.argv,
    }
    write_text(folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    # As a whole: a run that is killed while it is resumed must not lose its config.
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(computed(config))))


def computed(node: DictConfig | ListConfig) -> Any:
    """Plain containers with the results of what is computed (`${oc.env:...}`), which is not done on resuming.

    References to other settings stay: these may be others on resuming.
    """

    def settle(raw: Any, key: Any) -> Any:
        if isinstance(raw, dict | list):
            return computed(node[key])
        if computes(raw):
            return OmegaConf.to_container(node[key], resolve=True) if OmegaConf.is_config(node[key]) else node[key]
        return raw

    raw = OmegaConf.to_container(node)
    if isinstance(raw, dict):
        return {key: settle(child, key) for key, child in raw.items()}
    assert isinstance(raw, list)
    return [settle(child, k) for k, child in enumerate(raw)]


def git_commit(root: Path) -> str | None:
    """The checkout's commit, marked where files differ from it; None without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    if shutil.which("git") is None:
        return None
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def write_result(folder: Path, best: float | None, monitor: str) -> float:
    """The run's result for sweeps: best value of the monitored figure."""
    write_text(folder / "result.json", json.dumps({"monitor": monitor, "best": best}, indent=2) + "\n")
    return float("nan") if best is None else best
