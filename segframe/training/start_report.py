"""The lines that a run prints before its first step."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from segframe import distributed
from segframe.config.saved_run import started_with


def print_start(folder: Path, config: DictConfig, trainer: Trainer) -> None:
    """Print network, device, data, length and folder of a run, and the step that a resumed one continues from.

    Parts have the names of their options, as the run was started with.
    """
    if distributed.rank() > 0:
        return
    module: Any = trainer.lightning_module
    data, device = trainer.datamodule, trainer.strategy.root_device  # type: ignore[attr-defined]
    parts, network, length = started_with(folder), module.segmenter, module.length
    head, backbone, dataset = (
        parts.get(group) or type(part).__name__
        for group, part in (("head", network.head), ("backbone", network.backbone), ("data", data.train))
    )
    auxiliary = f" with aux_head {parts.get('aux_head') or type(network.aux_head).__name__}" if network.aux_head else ""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    frozen = sum(count for count, trained in counts if not trained)
    world, name = distributed.world(), str(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    images, per_epoch = config.data.batch_size * config.trainer.accumulate_grad_batches, length.steps_per_epoch
    shown = {
        "network": f"{head} on {backbone}{auxiliary}, {millions(sum(count for count, _ in counts))} parameters"
        + (f", {millions(frozen)} of them frozen" if frozen else ""),
        "device": f"{f'{world} x ' if world > 1 else ''}{name}, {config.trainer.precision}",
        "data": f"{dataset}, {len(data.train)} images for training, {len(data.val)} for validation, "
        f"{len(module.classes)} classes",
        "length": f"{length.total_steps} steps of {images} images, {length.total_steps / per_epoch:.4g} epochs, "
        f"a validation every {length.val_every_n_steps} steps",
        "folder": str(folder),
    }
    lines = [f"{name:8} {text}" for name, text in shown.items()]
    if trainer.ckpt_path:
        lines.append(f"resuming at step {trainer.global_step} of {length.total_steps} ({trainer.ckpt_path})")
    print("\n".join(lines), flush=True)


def millions(count: int) -> str:
    """A number of parameters with three digits: 12.3 M."""
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count:,}"
