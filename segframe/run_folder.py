"""A run's folder: config.yaml, environment.json, result.json beside checkpoints, events and metrics.csv."""

import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from segframe import checks
from segframe import config as schema
from segframe.errors import UserError
from segframe.whole import remove_unfinished, write_text

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "albumentations", "numpy")


def resume_arguments(argv: list[str]) -> list[str]:
    """Makes `resume=<folder>` compose from that folder's own config.yaml and run there.

    `resume=auto` goes on with the run in `output_dir` where it has a checkpoint, and starts it where it has none, so
    that one command can be given again and again: what it chooses and adds is in the run's config.yaml by then.
    """
    from segframe.cli import given, quoted

    folder = given("resume", argv)
    if folder is None:
        return argv
    if str(folder) == "auto":
        folder = given("output_dir", argv)
        if folder is None:
            sys.exit("error: resume=auto goes on with the run in output_dir, or starts it there: output_dir=...")
        argv = [word for word in argv if word != "resume=auto"]
        if not (folder / "config.yaml").is_file() or not any((folder / "checkpoints").glob("*.ckpt")):
            return argv
        plain = [word for word in argv if word[0] not in "+~-" and not schema.is_group(word.partition("=")[0])]
        argv = [f"resume={quoted(str(folder))}", *(word for word in plain if not word.startswith("output_dir="))]
    if not (folder / "config.yaml").is_file():
        sys.exit(f"error: resume={folder}: there is no {folder / 'config.yaml'}, so no run to continue")
    if not any((folder / "checkpoints").glob("*.ckpt")):
        sys.exit(f"error: resume={folder}: there is no {folder / 'checkpoints/last.ckpt'}, so no run to continue")
    for word in argv:
        if schema.is_group(word.partition("=")[0]):
            sys.exit(f"error: {word}: resume continues a run with its own parts; init_from={folder} starts another run")
    try:
        checks.check_stored(folder / "config.yaml")
    except UserError as error:
        sys.exit(f"error: resume={folder}: {error}")
    own = [f"--config-path={folder.resolve()}", "--config-name=config.yaml"]
    logs = ["hydra.job_logging.formatters.simple.format='%(message)s'", "+hydra.job_logging.handlers.file.delay=true"]
    hydras = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null", "hydra.job.name=train", *logs]
    return [*own, *argv, *hydras]


def open_folder(config: DictConfig) -> Path:
    """Checks the config and sets its `output_dir` to the run's folder, which is returned."""
    folder = as_named(Path(HydraConfig.get().runtime.output_dir))
    config.output_dir = str(folder)
    checks.check_parts(config)
    if config.resume:
        checks.fill_in(config)
    checks.check_keys(config)
    checks.check_targets(config)
    if not config.resume:
        checks.check_needs(config)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must be 0 or more and below 2**32, got {config.seed}")
    if not config.resume and any((folder / "checkpoints").glob("*.ckpt")):
        raise UserError(f"{folder} already holds a run; continue it with resume={folder}, or choose another output_dir")
    return folder


def as_named(folder: Path) -> Path:
    """A folder below the working directory as a user names it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def write_start(folder: Path, config: DictConfig, device: Any) -> None:
    """Writes config.yaml, and environment.json: versions, git commit, device. Everything has been built by then."""
    for place in (folder, folder / "checkpoints"):
        remove_unfinished(place)
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
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config))


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
