"""Schemas of the programs' root configs, and the options of the config groups."""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.config.limits import number
from segframe.config.resolvers import run_dir, script_dir, sweep_dir, sweep_subdir
from segframe.config.run_schema import DataConfig, TrainConfig

PACKAGED = Path(__file__).parents[1] / "configs"
CONFIG_DIR = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""The configs that belong to segframe: package data, or the top-level folder of a checkout."""


@dataclass
class EffectiveFieldConfig:
    """The images of noise on which the effective receptive field is measured: side in pixels, and number."""

    size: int = number(32, 8192)  # the longest strip of analysis/receptive_field.py
    num_images: int = number(1)


@dataclass
class SummaryConfig(TrainConfig):
    """The root of scripts/summary.py's config: a run's, and what is measured."""

    num_classes: int | None = number(1, default=None)
    size: Any = MISSING
    receptive_field: bool = MISSING
    effective_field: EffectiveFieldConfig = field(default_factory=EffectiveFieldConfig)


@dataclass
class PlanConfig(TrainConfig):
    """The root of scripts/plan.py's config: a run's, and what it is planned by."""

    budget: str = MISSING
    output: str | None = None
    overwrite: bool = False
    max_images: int = number(1)


@dataclass
class CheckpointConfig:
    """Base of the programs that build a network from a checkpoint."""

    checkpoint: str = MISSING
    output_stride: int | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class InferenceConfig(CheckpointConfig):
    """Base of the programs that run the network on images."""

    inference: Any = MISSING
    postprocess: Any = None
    precision: str | None = None
    accelerator: str = MISSING


@dataclass
class MetricsConfig(InferenceConfig):
    """Base of the programs that measure the network on a split of a dataset."""

    split: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    boundary_distance: float = 0.02
    boundary_tolerance: float = 0.0075


@dataclass
class EvaluateConfig(MetricsConfig):
    """The root of scripts/evaluate.py's config."""

    devices: Any = 1
    output_dir: str | None = None


@dataclass
class PredictConfig(InferenceConfig):
    """The root of scripts/predict.py's config."""

    input: str = MISSING
    output: str = MISSING
    alpha: float = number(0, 1)
    background: str | None = MISSING
    legend: bool = MISSING
    heatmaps: Any = MISSING
    feature_maps: bool = MISSING
    feature_channels: int = number(1)
    submission: bool = False
    devices: Any = 1


@dataclass
class ReportConfig(MetricsConfig):
    """The root of scripts/report.py's config."""

    output: str | None = None
    images: int = number(0, 20)
    training_images: int | None = number(0)
    highest: int = number(0, 100)
    boundary_width: int = number(1, 100)
    resamples: int = number(100, 100_000)


@dataclass
class CompareConfig(MetricsConfig):
    """The root of scripts/compare.py's config."""

    checkpoint: str | None = None  # type: ignore[assignment]
    runs: list[str] = MISSING
    images: int = number(0, 50)
    resamples: int = number(100, 100_000)
    output_dir: str | None = None


@dataclass
class ExportConfig(CheckpointConfig):
    """The root of scripts/export.py's config."""

    output: str = MISSING
    format: str = MISSING
    scores: bool = MISSING
    opset: int = number(18, 23)
    data: DataConfig = field(default_factory=DataConfig)
    calibration_images: int = number(1)
    validation_images: int | None = None


@dataclass
class CheckDataConfig:
    """The root of scripts/check_data.py's config."""

    splits: list[str] | None = None
    data: DataConfig = field(default_factory=DataConfig)
    json: str | None = None
    output_dir: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class ReplayConfig:
    """The root of scripts/replay.py's config."""

    checkpoint: str = MISSING
    precision: str | None = None
    accelerator: str = MISSING
    output_dir: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class SearchConfig:
    """The root of scripts/search.py's config."""

    study: str = MISSING
    trials: int | None = number(1, default=None)
    workers: int | None = number(1, default=None)
    timeout: float | None = number(0, default=None)
    search: Any = None
    sampler: Any = MISSING
    pruner: Any = MISSING
    overrides: list[str] = field(default_factory=list)


_config_dirs = [CONFIG_DIR]


def register(own: Path | None = None) -> None:
    """Register the schemas with Hydra; `own`: the folder of the user's own configs, where there is one."""
    _config_dirs[1:] = [own] if own is not None else []
    store_schemas()


def store_schemas() -> None:
    """Register the schemas with Hydra; needed anew in worker processes, which compose the default config."""
    store = ConfigStore.instance()
    # A group, so that summary.yaml and plan.yaml can build on train.yaml with wider schemas.
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="summary", node=SummaryConfig)
    store.store(group="schema", name="plan", node=PlanConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="check_data_schema", node=CheckDataConfig)
    store.store(name="replay_schema", node=ReplayConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="compare_schema", node=CompareConfig)
    store.store(name="search_schema", node=SearchConfig)


def own_folders() -> list[Path]:
    """The user's own config folder as a list of one path; empty if there is none."""
    return _config_dirs[1:]


def options(group: str) -> list[str]:
    """The options of a config group: its files without those that others build on, which begin with an underscore."""
    files = [path for folder in _config_dirs for path in (folder / group).glob("*.yaml")]
    return sorted({path.stem for path in files if path.stem[0] != "_"})


def groups() -> list[str]:
    """The names of all config groups; those of Hydra's own, in hydra/, are not among them."""
    return sorted({path.parent.name for folder in _config_dirs for path in folder.glob("*/*.yaml")})


def yaml_files() -> list[Path]:
    return [path for folder in _config_dirs for path in folder.rglob("*.yaml")]


def option_list(*, _root_: DictConfig) -> str:
    """The config groups of a program and their options, as --help lists them."""
    lines = [f"{group:<11} {', '.join(options(group))}" for group in groups() if group in _root_.hydra.runtime.choices]
    return "\n".join(fill(line, 116, subsequent_indent=" " * 12, break_on_hyphens=False) for line in lines)


# On import: a sweep's job may run in a process that has only imported the program's function.
for resolver in (run_dir, script_dir, sweep_dir, sweep_subdir, option_list):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
