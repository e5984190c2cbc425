"""Schemas of the programs' root configs, and the options of the config groups."""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.config.resolvers import run_dir, script_dir, sweep_dir, sweep_subdir

PACKAGED = Path(__file__).parents[1] / "configs"
CONFIG_DIR = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""The configs that belong to segframe: package data, or the top-level folder of a checkout."""


@dataclass
class DataConfig:
    """The dataset and how it is loaded, with the weights and the crop size that suit its images."""

    dataset: Any = MISSING
    root: str | None = MISSING
    download: bool = False
    train_split: str = MISSING
    val_split: str = MISSING
    batch_size: int = MISSING
    num_workers: int | None = None
    cache: str | None = None
    cache_dir: str | None = None
    channels: int = 3
    max_value: int = 255
    weights: str | None = None
    crop_size: Any = MISSING


@dataclass
class TrainerConfig:
    """How long and how training runs; training/trainer.py builds Lightning's Trainer from it."""

    max_epochs: int = MISSING
    max_steps: int | None = None
    val_every_n_epochs: float = MISSING
    val_every_n_steps: int | None = None
    checkpoint_every: Any = None
    accumulate_grad_batches: int = 1
    accumulated_mean: str = "batches"
    gradient_clip_val: float | None = None
    precision: str = MISSING
    accelerator: str = MISSING
    devices: Any = 1
    num_nodes: int = 1
    sync_batch_norm: Any = "auto"
    max_restarts: int = 0
    channels_last: bool = False
    fused_optimizer: bool = False
    tf32: bool = False
    compile: bool = False
    activation_checkpointing: bool = False
    keep_freed_memory: bool = False
    lightning: dict[str, Any] = field(default_factory=dict)


@dataclass
class NormalizeConfig:
    """(pixel - mean) / std per channel, pixels in 0 ... 255; `bgr` then reverses the channels."""

    mean: list[float] = MISSING
    std: list[float] = MISSING
    bgr: bool = False


@dataclass
class BatchNormConfig:
    """Batch norm; momentum is the share of a batch in the running statistics."""

    frozen: str | None = None
    backbone_momentum: float = 0.1
    head_momentum: float = 0.1


@dataclass
class ParamGroupsConfig:
    """Learning rate and decay of the optimizer's groups, beside each part's own lr_multiplier."""

    bias_lr_multiplier: float = MISSING
    decay_bias: bool = MISSING
    decay_norm: bool = MISSING
    decay_depthwise: bool = True


@dataclass
class TrainConfig:
    """The root of a run's config; the arguments of its parts (`_target_`) are checked by validate.check_targets.

    Values are in configs/. Keys that were added later have the older behaviour as their default here.
    """

    backbone: Any = MISSING
    head: Any = MISSING
    aux_head: Any = None
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    input_scales: list[float] = field(default_factory=list)
    loss: Any = MISSING
    output_weights: dict[str, float] = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    transforms: Any = MISSING
    inference: Any = None
    optimizer: Any = MISSING
    param_groups: ParamGroupsConfig = field(default_factory=ParamGroupsConfig)
    scheduler: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: Any = MISSING
    logger: Any = MISSING
    seed: int = MISSING
    deterministic: bool = False
    monitor: str = MISSING
    monitor_mode: str = MISSING
    output_dir: str | None = None
    resume: str | None = None
    init_from: str | None = None
    needs: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)


@dataclass
class EffectiveFieldConfig:
    """The images of noise on which the effective receptive field is measured: side in pixels, and number."""

    size: int = MISSING
    num_images: int = MISSING


@dataclass
class SummaryConfig(TrainConfig):
    """The root of scripts/summary.py's config: a run's, and what is measured."""

    num_classes: int | None = None
    size: Any = MISSING
    receptive_field: bool = MISSING
    effective_field: EffectiveFieldConfig = field(default_factory=EffectiveFieldConfig)


@dataclass
class CheckpointConfig:
    """What programs share that build a network from a checkpoint."""

    checkpoint: str = MISSING
    output_stride: int | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class InferenceConfig(CheckpointConfig):
    """What programs share that run the network on images."""

    inference: Any = MISSING
    postprocess: Any = None
    precision: str | None = None
    accelerator: str = MISSING


@dataclass
class MetricsConfig(InferenceConfig):
    """What programs share that measure the network on a split of a dataset."""

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
    alpha: float = MISSING
    background: str | None = MISSING
    legend: bool = MISSING
    heatmaps: Any = MISSING
    feature_maps: bool = MISSING
    feature_channels: int = MISSING
    devices: Any = 1


@dataclass
class ReportConfig(MetricsConfig):
    """The root of scripts/report.py's config."""

    output: str | None = None
    images: int = MISSING
    training_images: int | None = MISSING
    highest: int = MISSING
    boundary_width: int = MISSING
    resamples: int = MISSING


@dataclass
class CompareConfig(MetricsConfig):
    """The root of scripts/compare.py's config."""

    checkpoint: str | None = None  # type: ignore[assignment]
    runs: list[str] = MISSING
    images: int = MISSING
    resamples: int = MISSING
    output_dir: str | None = None


@dataclass
class ExportConfig(CheckpointConfig):
    """The root of scripts/export.py's config."""

    output: str = MISSING
    format: str = MISSING
    scores: bool = MISSING
    opset: int = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    calibration_images: int = MISSING
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
    trials: int | None = None
    workers: int | None = None
    timeout: float | None = None
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
    """Register the schemas; processes that a launcher started have not done so."""
    store = ConfigStore.instance()
    # A group, so that summary.yaml can build on train.yaml with a wider schema.
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="summary", node=SummaryConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="check_data_schema", node=CheckDataConfig)
    store.store(name="replay_schema", node=ReplayConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="compare_schema", node=CompareConfig)
    store.store(name="search_schema", node=SearchConfig)


def options(group: str) -> list[str]:
    """The options of a config group: its files without those that others build on, which begin with an underscore."""
    files = [path for folder in _config_dirs for path in (folder / group).glob("*.yaml")]
    return sorted({path.stem for path in files if path.stem[0] != "_"})


def groups() -> list[str]:
    """The names of all config groups; those of Hydra's own, in hydra/, are not among them."""
    return sorted({path.parent.name for folder in _config_dirs for path in folder.glob("*/*.yaml")})


def yaml_files() -> list[Path]:
    """All files of the config folders."""
    return [path for folder in _config_dirs for path in folder.rglob("*.yaml")]


def option_list(*, _root_: DictConfig) -> str:
    """The config groups of a program and their options, as --help lists them."""
    lines = [f"{group:<11} {', '.join(options(group))}" for group in groups() if group in _root_.hydra.runtime.choices]
    return "\n".join(fill(line, 116, subsequent_indent=" " * 12, break_on_hyphens=False) for line in lines)


# On import: a sweep's job may run in a process that has only imported the program's function.
for resolver in (run_dir, script_dir, sweep_dir, sweep_subdir, option_list):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
