"""A run's folder: config.yaml, environment.json, result.json beside checkpoints, events and metrics.csv."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from segframe import config as schema
from segframe.errors import UserError

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "albumentations", "numpy")


def resume_arguments(argv: list[str]) -> list[str]:
    """Makes `resume=<folder>` compose from that folder's own config.yaml and run there."""
    from segframe.cli import given

    folder = given("resume", argv)
    if folder is None:
        return argv
    for needed in ("config.yaml", "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            sys.exit(f"error: resume={folder}: there is no {folder / needed}, so no run to continue")
    for word in argv:
        if schema.is_group(word.partition("=")[0]):
            sys.exit(f"error: {word}: resume continues a run with its own parts; init_from={folder} starts another run")
    own = [f"--config-path={folder.resolve()}", "--config-name=config.yaml"]
    return [*own, *argv, f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra.job.name=train"]


def open_folder(config: DictConfig) -> Path:
    """Checks the config, makes it the folder's config.yaml and sets `output_dir`; returns the folder."""
    folder = as_named(Path(HydraConfig.get().runtime.output_dir))
    config.output_dir = str(folder)
    schema.check_keys(config)
    schema.check_targets(config)
    if (folder / "checkpoints").is_dir() and not config.resume:
        raise UserError(f"{folder} already holds a run; continue it with resume={folder}, or choose another output_dir")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return folder


def as_named(folder: Path) -> Path:
    """A folder below the working directory as a user names it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def write_environment(folder: Path, device: Any) -> None:
    """What a run ran on: versions, git commit, device."""
    root = Path(__file__).parents[1]
    git = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    environment = {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "git": git.stdout.strip() or None,
        "device": str(device),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": sys.argv,
    }
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")


def write_result(folder: Path, best: Any, monitor: str) -> float:
    """The run's result for sweeps: best value of the monitored figure."""
    score = float("nan") if best is None else float(best)
    (folder / "result.json").write_text(json.dumps({"monitor": monitor, "best": score}, indent=2) + "\n")
    return score
