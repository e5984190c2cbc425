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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from segframe import checks
from segframe import config as schema
from segframe.errors import UserError
from segframe.strangers import check_folder, computes
from segframe.whole import remove_unfinished, write_text

if sys.platform != "win32":
    import fcntl

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "albumentations", "numpy")


VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
"""Hydra's flags whose value may be a word of its own."""


def resume_arguments(argv: list[str]) -> list[str]:
    """Makes `resume=<folder>` compose from that folder's own config.yaml and run there.

    `resume=auto` goes on with the run in `output_dir` where it has a checkpoint, and starts it where it has none, so
    that one command can be given again and again: what it chooses is in the run's config.yaml by then, and what it adds
    is set there again. The jobs of a sweep are composed as they were before, see open_folder.
    """
    from segframe.cli import given, quoted

    flags, words = separated(argv)
    folder, output, sweeps = given("resume", words), given("output_dir", words), {"-m", "--multirun"} & set(flags)
    if folder is None or {"-h", "--help"} & set(flags):
        return argv
    if str(folder) == "auto":
        if output is None:
            sys.exit("error: resume=auto goes on with the run in output_dir, or starts it there: output_dir=...")
        if sweeps or not holds_run(output):
            return argv
        folder = output
        plain = [word for word in words if word[0] != "~" and not schema.is_group(word.partition("=")[0].lstrip("+"))]
        words = [word for word in plain if word.partition("=")[0] not in ("resume", "output_dir")]
        words = [f"++{word.lstrip('+')}" if word[0] == "+" else word for word in words]
        words.append(f"resume={quoted(str(folder))}")
    elif sweeps:
        sys.exit(f"error: resume={folder}: a sweep cannot continue one run; init_from={folder} starts each from it")
    if folder.suffix == ".ckpt":
        sys.exit(f"error: resume={folder}: give the run's folder, resume={folder.absolute().parent.parent}")
    if not (folder / "config.yaml").is_file():
        sys.exit(f"error: resume={folder}: there is no {folder / 'config.yaml'}, so no run to continue")
    if not holds_run(folder):
        sys.exit(f"error: resume={folder}: there is no {folder / 'checkpoints/last.ckpt'}, so no run to continue")
    if output is not None and output.resolve() != folder.resolve():
        sys.exit(
            f"error: output_dir={output}: a run goes on in its own folder; to keep that as it is, continue a copy of it"
        )
    for word in words:
        if schema.is_group(word.partition("=")[0]):
            sys.exit(f"error: {word}: resume continues a run with its own parts; init_from={folder} starts another run")
    try:
        check_folder(folder, repeated(words))
    except UserError as error:
        sys.exit(f"error: resume={folder}: {error}")
    own = [f"--config-path={folder.resolve()}", "--config-name=config.yaml"]
    logs = ["hydra.job_logging.formatters.simple.format='%(message)s'", "+hydra.job_logging.handlers.file.delay=true"]
    hydras = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null", "hydra.job.name=train", *logs]
    return [*own, *flags, *words, *hydras]


def repeated(words: list[str]) -> list[str]:
    """The settings that words of the command line give, also within a part, by their dotted names."""
    found: list[str] = []
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
            found += [path for path, _ in checks.leaves(override.value(), override.key_or_group)]
        except HydraException:
            pass  # told when it is composed
    return found


def separated(argv: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and all other words."""
    flags: list[str] = []
    words: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        (flags if word.startswith("-") or (before in VALUED and "=" not in word) else words).append(word)
    return flags, words


def holds_run(folder: Path) -> bool:
    """Whether a run has come to a checkpoint in this folder."""
    return (folder / "config.yaml").is_file() and any((folder / "checkpoints").glob("*.ckpt"))


def open_folder(config: DictConfig) -> Path:
    """Checks the config and sets its `output_dir` to the run's folder, which is returned."""
    folder = as_named(Path(HydraConfig.get().runtime.output_dir))
    config.output_dir = str(folder)
    if config.resume == "auto":
        config.resume = str(folder) if holds_run(folder) else None
    elif config.resume and Path(config.resume).resolve() != folder.resolve():
        raise UserError(f"resume={config.resume}: give it on the command line as resume=..., where it is read first")
    checks.check_parts(config)
    if config.resume:
        checks.fill_in(config)
    checks.check_keys(config)
    if config.resume and computes(OmegaConf.to_container(config)):  # from the command line
        typed = OmegaConf.merge(OmegaConf.structured(schema.TrainConfig), config)
        assert isinstance(typed, DictConfig)
        config.merge_with(computed(typed))  # the folder's own config has no types, which would turn texts into numbers
    checks.check_targets(config)
    if not config.resume:
        checks.check_needs(config)
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
def alone(folder: Path) -> Iterator[None]:
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
