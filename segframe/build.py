"""Where names become objects: config -> data, network, task, trainer."""

import logging
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segframe import checkpoint, monitor
from segframe.checks import accepts, annotation, did_you_mean
from segframe.config import DataConfig, NormalizeConfig, TrainerConfig
from segframe.data.base import SegmentationDataset
from segframe.data.caching import add_caches
from segframe.data.datamodule import DataModule
from segframe.data.statistics import class_weights
from segframe.data.transforms import Transform
from segframe.data_check import before_training
from segframe.errors import UserError, check_range, naming
from segframe.foreign import load_what_fits, read_weights
from segframe.heads.base import Head
from segframe.segmenter import Normalize, Segmenter
from segframe.task import SegmentationTask

log = logging.getLogger(__name__)


class RunLength(NamedTuple):
    """A run in optimizer steps; a step is `accumulate` batches."""

    total_steps: int
    steps_per_epoch: int
    val_every_n_steps: int


def build(config: Any, part: str) -> Any:
    """The object (or partial) that a config node names, its lists and dicts plain."""
    # RuntimeError: torch, of sizes below zero.
    with naming(part, MisconfigurationException, RuntimeError, ArithmeticError):
        try:
            return instantiate(config, _convert_="all")
        except InstantiationException as error:
            # Hydra's own message says which target failed; the cause says why.
            raise (error.__cause__ if isinstance(error.__cause__, Exception) else ValueError(str(error))) from None


def build_datasets(data: DataConfig, transforms: Any, seed: int) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training split with its transforms, and the validation split as it is: at its original size."""
    if transforms.train is None:
        raise UserError("transforms.train=null: [] trains on the images as they are")
    steps = build(transforms.train, "transforms")
    with naming("transforms"):
        transform = Transform(steps)
    make_dataset = build(data.dataset, "data.dataset")
    if data.root is None and not accepts(annotation(make_dataset.func, "root"), None):
        raise UserError("data.root must be given: data.root=..., the folder of the data")
    with naming("data"):
        if data.download:
            make_dataset.func.download(data.root)
        train = make_dataset(root=data.root, split=data.train_split, transform=transform, seed=seed)
        val = make_dataset(root=data.root, split=data.val_split)
        if data.cache is not None:
            add_caches([train, val], data.cache, data.cache_dir)
        return train, val


def measure_run(trainer: TrainerConfig, num_samples: int, batch_size: int) -> RunLength:
    """The run's length in optimizer steps, whether it was given in epochs or in steps."""
    for name in ("max_epochs", "max_steps", "val_every_n_epochs", "val_every_n_steps", "accumulate_grad_batches"):
        value = getattr(trainer, name)
        if value is not None and value <= 0:
            raise UserError(f"trainer.{name} must be positive, got {value}")
    if (trainer.gradient_clip_val or 0) < 0:
        raise UserError(f"trainer.gradient_clip_val must be positive or null, got {trainer.gradient_clip_val}")
    if batch_size <= 0:
        raise UserError(f"data.batch_size must be positive, got {batch_size}")
    steps_per_epoch = max(1, num_samples // (batch_size * trainer.accumulate_grad_batches))
    total = trainer.max_steps if trainer.max_steps is not None else trainer.max_epochs * steps_per_epoch
    every = trainer.val_every_n_steps or max(1, round(trainer.val_every_n_epochs * steps_per_epoch))
    return RunLength(total, steps_per_epoch, min(every, total))


def build_data(config: DictConfig) -> tuple[DataModule, RunLength]:
    """Loaders of the training stream (the whole run's batches) and of the validation images."""
    train, val = build_datasets(config.data, config.transforms, config.seed)
    for line in before_training.look(train, val):
        log.warning(line)
    length = measure_run(config.trainer, len(train), config.data.batch_size)
    data = DataModule(
        train,
        val,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        num_batches=length.total_steps * config.trainer.accumulate_grad_batches,
        seed=config.seed,
        pin_memory=config.trainer.accelerator != "cpu" and torch.cuda.is_available(),
    )
    return data, length


def resolve_auto_weights(loss: Any, train: SegmentationDataset) -> None:
    """Replaces `class_weights: auto`, anywhere in the loss's config, by the masks' median-frequency weights."""
    if OmegaConf.is_dict(loss):
        for key, child in loss.items():
            if key == "class_weights" and child == "auto":
                loss[key] = class_weights(train)
                told = ", ".join(f"{name} {w:.2f}" for name, w in zip(train.classes, loss[key], strict=True))
                log.info("class weights (median frequency): %s", told)
            else:
                resolve_auto_weights(child, train)


def build_segmenter(config: DictConfig, num_classes: int) -> Segmenter:
    """The network of a run's config, with the first weights that it names."""
    backbone = build(config.backbone, "backbone")

    def build_head(name: str) -> Head:
        make_head = build(config[name], name)
        with naming(name, RuntimeError, ArithmeticError):
            return make_head(features=backbone.features, num_classes=num_classes)

    aux_head = build_head("aux_head") if config.aux_head else None
    segmenter = Segmenter(
        backbone,
        build_head("head"),
        aux_head,
        build_normalize(config.normalize),
        list(config.input_scales),
        config.batch_norm.frozen,
    )
    for name, tensor in segmenter.named_parameters():
        if not tensor.numel():
            raise UserError(f"{name} would be {tuple(tensor.shape)}: numbers of channels must be positive")
    in_backbone, settings = set(backbone.modules()), config.batch_norm
    for name in ("backbone_momentum", "head_momentum"):
        if not 0 <= settings[name] <= 1:
            raise UserError(f"batch_norm.{name} is a share between 0 and 1, got {settings[name]}")
    for layer in segmenter.norm_layers():
        layer.momentum = settings.backbone_momentum if layer in in_backbone else settings.head_momentum
    return segmenter


def build_normalize(config: NormalizeConfig) -> Normalize:
    """The first layer of a network."""
    return Normalize(list(config.mean), list(config.std), config.bgr)


def initialize_from(segmenter: Segmenter, config: DictConfig, classes: tuple[str, ...]) -> None:
    """Starts from other weights, where names and shapes agree, and tells which tensors were left out.

    Images are normalised as the weights expect them from here on, in `config` too.
    """
    path = config.init_from
    source = checkpoint.locate(path)
    weights = read_weights(source)
    log.info("init_from=%s: %s", source, weights.origin)
    if weights.normalize != config.normalize:
        config.normalize.merge_with(weights.normalize)
        log.info("  images are normalised as these weights expect: %s", OmegaConf.to_container(config.normalize))
        segmenter.normalize = build_normalize(config.normalize)
    for key, value in weights.expects.items():
        here = OmegaConf.select(config, key)
        if here != value:
            log.warning("  these weights were trained with %s=%s, here it is %s", key, value, here)
    other = segmenter.score_layers if weights.classes not in (None, classes) else ()
    left_out, untouched = load_what_fits(segmenter, weights.state, other)
    if weights.classes is None:
        log.info("  its classes are not told in the file: scores are taken where there are as many")
    if all(name in untouched for name in segmenter.state_dict() if name.startswith("backbone.")):
        raise UserError(f"init_from={path}: no tensor of its backbone fits this backbone; choose the same one")
    log.info("  %d tensors taken", len(weights.state) - len(left_out))
    for line in left_out:
        log.info("  left out: %s", line)
    for line in untouched:
        log.info("  starts anew: %s", line)


def build_task(
    config: DictConfig, segmenter: Segmenter, dataset: SegmentationDataset, length: RunLength
) -> SegmentationTask:
    """The LightningModule of a run."""
    monitor.resolve_monitor(config, dataset.classes)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for name in segmenter.output_names:
        if name not in config.output_weights:
            raise UserError(f"output_weights has no entry {name}, an output of this network: output_weights.{name}=1.0")
        check_range(f"output_weights.{name}", config.output_weights[name], 0)
    known = {*segmenter.output_names, "aux"}  # which train.yaml weighs for all networks
    for name in map(str, config.output_weights):
        if name not in known and not name.startswith("scale_"):
            raise UserError(f"output_weights.{name} is no output of this network{did_you_mean(name, known)}")
    if not any(config.output_weights[name] for name in segmenter.output_names):
        raise UserError("output_weights are all 0: nothing would be learned")
    about = checkpoint.About({str(key): value for key, value in plain.items()}, dataset.classes, dataset.palette)
    return SegmentationTask(
        segmenter,
        build(config.loss, "loss"),
        dict(config.output_weights),
        build(config.optimizer, "optimizer"),
        build(config.scheduler, "scheduler"),
        config.param_groups,
        length.total_steps,
        length.steps_per_epoch,
        config.seed,
        about,
    )


def build_all(nodes: DictConfig, part: str, kind: type) -> dict[str, Any]:
    """The objects that a group's nodes name; those that are null are left out."""
    chosen = {f"{part}.{name!s}": node for name, node in nodes.items() if node is not None}
    found = {name: build(node, name) for name, node in chosen.items()}
    for name, made in found.items():
        if not isinstance(made, kind):
            raise UserError(f"{name} makes a {type(made).__name__}, which is no {kind.__name__}: see configs/{part}")
    return found
