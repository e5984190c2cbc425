"""Schema of a run's config."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from segframe.config.limits import choice, number


@dataclass
class DataConfig:
    """The dataset and how it is loaded, with the weights and the crop size that suit its images."""

    dataset: Any = MISSING
    root: str | None = MISSING
    download: bool = False
    train_split: str = MISSING
    val_split: str = MISSING
    batch_size: int = number(1)
    num_workers: int | None = number(0, default=None)
    cache: str | None = choice("ram", "disk", default=None)
    cache_dir: str | None = None
    cache_limit: float | None = number(0, default=None, above=True)
    channels: int = number(1, 1024, default=3)
    max_value: int = number(255, 65_535, default=255)
    weights: str | None = None
    crop_size: Any = MISSING


@dataclass
class TrainerConfig:
    """Length, hardware and precision of a training; training/trainer.py builds Lightning's Trainer from it."""

    max_epochs: int = number(1)
    max_steps: int | None = number(1, default=None)
    val_every_n_epochs: float = number(0, above=True)
    val_every_n_steps: int | None = number(1, default=None)
    checkpoint_every: Any = None
    accumulate_grad_batches: int = number(1, default=1)
    accumulated_mean: str = choice("pixels", "batches", default="batches")
    gradient_clip_val: float | None = number(0, default=None)
    precision: str = MISSING
    accelerator: str = MISSING
    devices: Any = 1
    num_nodes: int = 1
    sync_batch_norm: Any = choice("auto", True, False, default="auto")
    max_restarts: int = number(0, default=0)
    channels_last: bool = False
    fused_optimizer: bool = False
    tf32: bool = False
    compile: Any = choice("auto", True, False, default=False)
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
    backbone_momentum: float = number(0, 1, default=0.1)
    head_momentum: float = number(0, 1, default=0.1)


@dataclass
class ParamGroupsConfig:
    """Learning rate factor of biases and weight decay of biases, norms and depthwise convolutions."""

    bias_lr_multiplier: float = number(0)
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
    output_weights: dict[str, float] = number(0)
    data: DataConfig = field(default_factory=DataConfig)
    transforms: Any = MISSING
    inference: Any = None
    optimizer: Any = MISSING
    param_groups: ParamGroupsConfig = field(default_factory=ParamGroupsConfig)
    scheduler: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: Any = MISSING
    logger: Any = MISSING
    seed: int = number(0, 2**32 - 1)
    deterministic: bool = False
    monitor: str = MISSING
    monitor_mode: str = MISSING
    output_dir: str | None = None
    resume: str | None = None
    init_from: str | None = None
    needs: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)
