"""Set-up of a hyperparameter search: checked settings, sampler, study."""

import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import DictConfig
from optuna.study import StudyDirection

from segframe.cli.search_space import Space, TrialFacts, check_space, grid_values
from segframe.config.instantiate import instantiate
from segframe.config.limits import check_limits
from segframe.config.validate import check_targets
from segframe.errors import UserError, error_context
from segframe.files import write_text
from segframe.training.study import NAME, locked, open_journal

DEFAULT_TRIALS = 20
LOCK = ".lock"
"""The lock file in a study's folder, held by the driver that draws or takes over a trial."""


def check_settings(config: DictConfig) -> None:
    """UserError where a setting of the search itself is wrong."""
    config.study  # noqa: B018  # raises the error of a missing setting
    check_limits(config)
    check_targets(config, without=("search", "overrides"))
    instantiate(config.pruner, "pruner")  # discarded; refuses wrong values before the first trial


class Sampling:
    """Factory of the trials' samplers, which also limits the number of trials."""

    def __init__(self, config: DictConfig, space: Space) -> None:
        self._make = instantiate(config, "sampler")  # a functools.partial
        self._seed = config.get("seed")
        self._grid = grid_values(space.ranges) if self._make.func is optuna.samplers.GridSampler else None
        if self._make.func is optuna.samplers.CmaEsSampler and find_spec("cmaes") is None:
            raise UserError("sampler=cmaes needs the package cmaes: pip install 'segframe[search]'")
        self.sampler(0)

    def limit(self, trials: int | None) -> int:
        """The number of trials where `trials` are asked for: at most the cells of a grid."""
        cells = prod(map(len, self._grid.values())) if self._grid else None
        return min(trials or cells or DEFAULT_TRIALS, cells or sys.maxsize)

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of a trial: its seed depends on the trial's number, so that drivers draw differently."""
        sampler: optuna.samplers.BaseSampler
        with error_context("sampler"):
            if self._grid is not None:
                sampler = self._make(search_space=self._grid)  # its fixed seed gives all drivers one order of the cells
            else:
                seed = None if self._seed is None else (self._seed * 1_000_003 + number) % 2**32
                sampler = self._make(seed=seed)
        return sampler


def open_study(folder: Path, space: Space) -> tuple[optuna.Study, Any, TrialFacts]:
    """Begin a study if its space is sound, or open it; returns study, journal, and what its trials have in common.

    UserError where it was begun with another space.
    """
    path = folder / "search.yaml"
    if not path.is_file():
        others = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
        if others and not path.is_file():  # no other driver has begun the study meanwhile
            raise UserError(f"study={folder}: the folder holds other files ({others[0].name}); choose another")
        facts = check_space(space)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            if not path.is_file():
                content = {**facts._asdict(), "settings": space.words}
                write_text(path, yaml.safe_dump(content, sort_keys=False, width=1000))
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    if other := sorted(set(stored["settings"]) ^ set(space.words)):
        raise UserError(
            f"study={folder}: it was begun with other settings ({', '.join(other)}); repeat those in {path}, or choose "
            "another folder"
        )
    journal = open_journal(folder)
    direction = StudyDirection.MINIMIZE if stored["mode"] == "min" else StudyDirection.MAXIMIZE
    with locked(folder / LOCK):
        study = optuna.create_study(storage=journal, study_name=NAME, direction=direction, load_if_exists=True)
    return study, journal, TrialFacts(stored["monitor"], stored["mode"], stored.get("devices", 1))
