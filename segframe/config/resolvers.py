"""OmegaConf resolvers for the folders that runs, scripts and sweeps write to."""

import re
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from segframe.config.overrides import key_of, overrides_of


def run_dir(*, _root_: DictConfig) -> str:
    """A run's folder: `output_dir`, or outputs/<date>/<time>_<model>_<data>."""
    if _root_.output_dir is not None:
        return str(_root_.output_dir)
    choices = _root_.hydra.runtime.choices
    return unused(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}_{model_name(_root_.hydra)}_{choices.data}")


def model_name(hydra: Any) -> str:
    """The name of a configured network: `fcn8s` for model=fcn8s, `<backbone>_<head>` if either was chosen alone."""
    choices = hydra.runtime.choices
    chosen = {key_of(override) for override in overrides_of(hydra)}
    preset = choices.model if not chosen & {"backbone", "head"} else None
    return preset or f"{choices.backbone}_{choices.head}"


def unused(folder: str) -> str:
    """The folder, made here, with a number where a run that started in the same second has it."""
    for name in (f"{folder}_{k}" if k > 1 else folder for k in count(1)):
        with suppress(FileExistsError):
            Path(name).mkdir(parents=True)
            return name
    raise AssertionError


def script_dir(*, _root_: DictConfig) -> str:
    """The folder of a script's results: `output_dir`, or outputs/<date>/<time>_<script>."""
    return str(_root_.output_dir or unused(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}_{_root_.hydra.job.name}"))


def sweep_dir(*, _root_: DictConfig) -> str:
    """A sweep's folder: `output_dir`, or outputs/<date>/<time>_sweep."""
    return str(_root_.output_dir or unused(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}_sweep"))


def sweep_subdir(*, _root_: DictConfig) -> str:
    """A job's folder within its sweep: its number and its values of the swept settings, as a plain file name."""
    same = _root_.hydra.job.config.override_dirname.exclude_keys  # set by cli.sweep.SweepTable
    values = [override for override in overrides_of(_root_.hydra) if key_of(override) not in same]
    return re.sub(r"[^\w.+-]+", "-", f"{_root_.hydra.job.num}_{'_'.join(values)}")[:100].rstrip("-_")
