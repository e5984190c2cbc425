"""The finished config of a run: what depends on data, weights or machine is resolved, then it is read-only."""

import logging
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from segframe import distributed
from segframe.config.run_schema import TrainConfig, TrainerConfig
from segframe.config.saved_run import computes
from segframe.config.validate import did_you_mean, walk
from segframe.data.base import SegmentationDataset, class_weights
from segframe.data.build import run_length
from segframe.errors import UserError
from segframe.inference.metrics import best_mode, compute_metrics
from segframe.inference.prepare import PRECISIONS
from segframe.models.weights.third_party import Weights

log = logging.getLogger(__name__)

FEW_IMAGES = 4
"""Images per device up to which trainer.sync_batch_norm=auto synchronizes."""

MANY_STEPS = 20_000
"""Optimizer steps from which on trainer.compile=auto compiles.

An estimate, not measured: compiling takes minutes and saves about a fifth of a step.
"""


def finish_config(config: DictConfig, resumes: bool, train: SegmentationDataset, weights: Weights | None) -> DictConfig:
    """The config that config.yaml and every checkpoint hold: read-only, and with references to other settings alone.

    Resolved are precision, compile, class weights and monitor_mode `auto`, what environment variables and other
    resolvers give, and, from `weights` to start from, the normalisation of images. References between settings stay,
    so that a resumed run can change both ends by one.
    """
    # A resumed run's own config has no types; texts that are computed would else become numbers.
    typed = OmegaConf.merge(OmegaConf.structured(TrainConfig), config)
    assert isinstance(typed, DictConfig)
    finished = OmegaConf.create(resolve_computed(typed))
    finished.resume = finished.output_dir if resumes else None
    finish_trainer(finished.trainer)
    finish_devices(finished.trainer, finished.data.batch_size)
    steps = run_length(finished.trainer, len(train), finished.data.batch_size).total_steps
    finish_compile(finished.trainer, steps, "crop_size" in finished.transforms)
    finish_class_weights(finished.loss, train)
    finished.monitor_mode = find_monitor_mode(finished, train.classes)
    if resumes or weights is not None:
        if weights is not None and finished.backbone.get("weights"):
            log.info("backbone.weights=%s is not loaded: init_from is given", finished.backbone.weights)
        if "weights" in finished.backbone:
            finished.backbone.weights = None
    if finished.backbone.get("frozen", False) is True and not (resumes or weights or config.backbone.get("weights")):
        log.warning("backbone.frozen=true: its weights are random and remain so; set backbone.weights or init_from")
    fits = weights is not None and len(weights.normalize["mean"]) == finished.data.channels
    if weights is not None and fits and weights.normalize != finished.normalize:
        finished.normalize = weights.normalize
        log.info("images are normalized as the weights of init_from expect: %s", weights.normalize)
    OmegaConf.set_readonly(finished, True)
    return finished


def resolve_computed(node: DictConfig | ListConfig) -> Any:
    """Plain containers in which resolvers (`${oc.env:...}`) are replaced by their results, references to keys stay."""

    def resolve(raw: Any, key: Any) -> Any:
        if isinstance(raw, dict | list):
            return resolve_computed(node[key])
        value = node[key] if computes(raw) else raw
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    raw: Any = OmegaConf.to_container(node)
    if isinstance(raw, dict):
        return {key: resolve(child, key) for key, child in raw.items()}
    return [resolve(child, k) for k, child in enumerate(raw)]


def finish_trainer(settings: TrainerConfig) -> None:
    """Resolve precision `auto` for this machine, and switch off a fused optimizer where it cannot clip gradients."""
    accelerator = settings.accelerator
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise UserError(f"trainer.accelerator={accelerator}: unknown; choose auto, cpu or gpu")
    if accelerator not in ("auto", "cpu") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError(f"trainer.accelerator={accelerator}: this machine has no GPU; choose auto or cpu")
    short = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # Lightning takes these too
    settings.precision = short.get(settings.precision, settings.precision)
    if settings.precision not in ("auto", *PRECISIONS):
        raise UserError(f"trainer.precision={settings.precision}: unknown; choose auto, {', '.join(PRECISIONS)}")
    if settings.precision == "auto":
        settings.precision = "bf16-mixed" if has_fast_bfloat16(settings.accelerator) else "32-true"
    if settings.precision == "16-mixed" and settings.gradient_clip_val:
        settings.fused_optimizer = False  # it would unscale the gradients only after they are clipped


def finish_devices(settings: TrainerConfig, batch_size: int) -> None:
    """State the number of devices that there are, and whether they share the statistics of batch norm."""
    devices = distributed.world()
    settings.devices, settings.num_nodes = distributed.local_world(), devices // distributed.local_world()
    if settings.sync_batch_norm == "auto" and devices > 1:
        settings.sync_batch_norm = batch_size <= FEW_IMAGES * devices


def finish_compile(settings: TrainerConfig, steps: int, one_size: bool) -> None:
    """Replace `trainer.compile=auto` by true or false, for this machine and the number of optimizer steps.

    `one_size`: whether all training images have one size.
    """
    if settings.compile == "auto":
        # torch.compile cannot trace activation checkpointing, and nn.SyncBatchNorm breaks the graph in every layer.
        is_traceable = not settings.activation_checkpointing and settings.sync_batch_norm is not True
        settings.compile = (
            distributed.uses_gpu(settings.accelerator)
            and has_compilers()
            and steps >= MANY_STEPS
            and one_size
            and is_traceable
        )


def has_compilers() -> bool:
    """Whether torch.compile can build its code for a GPU: Triton with C and Python's headers, the rest with C++."""
    has_cpp = "CXX" in os.environ or any(map(shutil.which, ("c++", "g++", "clang++")))
    has_c = "CC" in os.environ or any(map(shutil.which, ("gcc", "clang")))
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return find_spec("triton") is not None and has_cpp and has_c and has_headers


def has_fast_bfloat16(accelerator: str) -> bool:
    """Whether the device that Lightning will choose multiplies in bfloat16 rather than emulating it."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return False
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # before torch 2.10: float32
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def finish_class_weights(loss: DictConfig, train: SegmentationDataset) -> None:
    """Replace `class_weights: auto`, anywhere in the loss's config, by the median-frequency weights of the masks."""
    auto = [path for path, node in walk(OmegaConf.to_container(loss), "") if node.get("class_weights") == "auto"]
    weights = class_weights(train) if auto else []
    for path in auto:
        text = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(train.classes, weights, strict=True))
        log.info("class weights (median frequency): %s", text)
        OmegaConf.update(loss, f"{path}.class_weights".lstrip("."), weights)


def find_monitor_mode(config: DictConfig, classes: tuple[str, ...]) -> str:
    """`min` or `max`: where the monitored metric is best; UserError where there is no such metric or mode."""
    known = ["val/loss", *compute_metrics(torch.zeros(len(classes), len(classes)), classes, "val")]
    if config.monitor not in known:
        raise UserError(f"monitor={config.monitor}: there is no such metric{did_you_mean(config.monitor, known)}")
    mode, right = config.monitor_mode, best_mode(config.monitor)
    if mode not in ("auto", right):
        where = "lowest" if right == "min" else "highest"
        raise UserError(
            f"monitor_mode={mode}: {config.monitor} is best where it is {where}; set monitor_mode={right}, or auto"
        )
    return right
