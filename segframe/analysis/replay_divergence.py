"""Replay of a step whose loss was not finite: finds the image and the layer that caused it."""

from collections.abc import Collection
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from segframe import IGNORE_INDEX
from segframe.config.composition import output_folder
from segframe.config.instantiate import instantiate
from segframe.config.schema import ReplayConfig
from segframe.config.trust import check_trust
from segframe.config.validate import check_keys
from segframe.errors import UserError, first_names
from segframe.inference.build import pick_device
from segframe.inference.prepare import prepare
from segframe.models.from_checkpoint import rebuild
from segframe.models.losses.base import Loss
from segframe.models.losses.combined import total_loss
from segframe.models.segmenter import Segmenter
from segframe.models.weights import checkpoint
from segframe.training.callbacks.divergence import FILE, Step
from segframe.visualization.overlays import as_rgb, fit_height, legend, overlay, save_png
from segframe.visualization.tables import plain_table, print_table


class DivergedStep(NamedTuple):
    """The content of diverged.pt, with its network and loss."""

    segmenter: Segmenter
    loss: Loss
    output_weights: dict[str, float]
    metadata: checkpoint.CheckpointMetadata
    step: Step
    value: float
    """The loss in training."""


class ImageResult(NamedTuple):
    """The result of a replay for one image of the batch."""

    name: str
    loss: float
    """The loss of this image alone, after the forward pass of the whole batch."""
    void: float
    """The share of void pixels."""
    layer: str
    """The first layer whose output for this image is not finite; empty if all are finite."""


class ReplayResult(NamedTuple):
    """The result of a replay."""

    loss: float
    images: list[ImageResult]
    layer: str
    """The first layer whose output is not finite for any image; empty if all are finite."""
    weights: list[str]
    """The parameters that are not finite."""
    gradient: float
    """The norm of the gradient of all parameters."""


def replay_step(config: DictConfig) -> None:
    """Repeat the forward and backward pass of diverged.pt; print where it fails, write images and masks as PNG."""
    check_keys(config, ReplayConfig)
    path = find_file(Path(config.checkpoint))
    diverged = load_step(path, config.trust)
    device = pick_device(config.accelerator)
    result = replay(diverged, device, config.precision)
    rates = ", ".join(f"{part} {rate:g}" for part, rate in diverged.step.rates.items())
    precision = config.precision or diverged.metadata.config["trainer"]["precision"]
    print(f"step {diverged.step.number}, learning rate {rates}: the loss was {diverged.value}")
    print(f"computed again on {device}, {precision}: {result.loss:g}, norm of the gradient {result.gradient:g}")
    rows = [
        {
            "image": image.name,
            "loss": f"{image.loss:.4g}",
            "void %": f"{100 * image.void:.1f}",
            "first not finite": image.layer or "-",
        }
        for image in result.images
    ]
    print_table(plain_table(rows, str(path)))
    print(diagnose(result))
    folder = output_folder()
    for k, name in enumerate(diverged.step.batch["name"]):
        save_png(folder / f"{k:02}_{Path(name).stem}.png", draw_image(diverged, k))
    print(f"images and masks as the network got them: {folder}")


def find_file(path: Path) -> Path:
    """Return diverged.pt of a run's folder, or the file itself."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"checkpoint={path}: there is no {file}, which a run writes when its loss is not finite")
    return file


def load_step(path: Path, trust: Collection[str] = ()) -> DivergedStep:
    """Read diverged.pt; its network and loss are built from segframe's parts and those below `trust`."""
    content = checkpoint.load_file(path)
    segmenter, metadata, _ = rebuild(*checkpoint.parse_run(content, path, trust), path, diverged=True)
    config = metadata.config
    try:
        batch = content["batch"]
        image, mask, names = batch["image"], batch["mask"], [str(name) for name in batch["name"]]
        if (
            image.dtype not in (torch.uint8, torch.float32)
            or mask.dtype != torch.uint8
            or mask.shape != (len(names), *image.shape[2:])
        ):
            raise ValueError("a batch holds images (N, C, H, W), masks (N, H, W) and N names")
        rates = {str(part): float(rate) for part, rate in content["learning_rates"].items()}
        batch = {"image": image, "mask": mask, "name": names}
        step = Step(int(content["step"]), batch, rates, int(content["seed"]))
        value = float(content["loss"])
        weights = {str(name): float(weight) for name, weight in config["output_weights"].items()}
        segmenter.freeze_norm(config.get("batch_norm", {}).get("frozen"))
        check_trust(config, trust, ["loss"])
        loss = instantiate(config["loss"], "loss")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no step of a run whose loss was not finite ({error!r})") from error
    return DivergedStep(segmenter, loss, weights, metadata, step, value)


def replay(diverged: DivergedStep, device: torch.device, precision: str | None) -> ReplayResult:
    """Repeat the step's forward and backward pass as in training; `precision` None: that of the training."""
    segmenter = prepare(diverged.segmenter, diverged.metadata.config, device, precision).train()
    loss = diverged.loss.to(device)
    images, masks = diverged.step.batch["image"].to(device), diverged.step.batch["mask"].to(device)
    first_layers: dict[int, str] = {}
    for name, layer in segmenter.named_modules():  # not the leaves alone: Swin's attention does not call its own
        layer.register_forward_hook(partial(record_non_finite, first_layers, name))
    torch.manual_seed(diverged.step.seed)
    outputs = segmenter.outputs(images)

    def weighted_loss(part: slice) -> Tensor:
        parts = {name: logits._replace(values=logits.values[part]) for name, logits in outputs.items()}
        return total_loss(loss, diverged.output_weights, parts, masks[part])

    total = weighted_loss(slice(None))
    void = (masks == IGNORE_INDEX).float().mean((1, 2)).tolist()
    results = [
        ImageResult(name, weighted_loss(slice(k, k + 1)).item(), void[k], first_layers.get(k, ""))
        for k, name in enumerate(diverged.step.batch["name"])
    ]
    total.backward()
    parameters = dict(segmenter.named_parameters())
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients).item()
    weights = [name for name, parameter in parameters.items() if not parameter.isfinite().all()]
    return ReplayResult(total.item(), results, next(iter(first_layers.values()), ""), weights, norm)


def record_non_finite(first_layers: dict[int, str], name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
    """Record the layer for the images whose output is not finite here for the first time (a forward hook)."""
    if isinstance(output, Tensor) and output.is_floating_point():
        for k in (~output.isfinite().flatten(1).all(1)).nonzero().flatten().tolist():
            first_layers.setdefault(k, f"{name} ({type(layer).__name__})")


def diagnose(result: ReplayResult) -> str:
    """Return one sentence that names the first thing that is not finite."""
    if result.weights:
        return f"the weights were not finite before this step: {first_names(result.weights, 1)}"
    if result.layer:
        return f"the weights are finite; the first output that is not finite is that of {result.layer}"
    if not isfinite(result.loss):
        return "weights and logits are finite; the loss is not"
    if not isfinite(result.gradient):
        return "the loss is finite here; its gradient is not"
    return "loss and gradient are finite here; the difference to training is the device or the precision"


def draw_image(diverged: DivergedStep, k: int) -> NDArray[np.uint8]:
    """Draw the k-th image as the network got it, beside its mask, over a legend."""
    _, classes, palette = diverged.metadata
    image = fit_height(as_rgb(diverged.step.batch["image"][k].permute(1, 2, 0).cpu().numpy()))
    mask = fit_height(diverged.step.batch["mask"][k].cpu().numpy())
    panels = np.hstack([image, overlay(image, mask, palette)])
    present = [int(index) for index in np.unique(mask) if index < len(classes) or index == IGNORE_INDEX]
    return np.vstack([panels, legend(classes, palette, present, panels.shape[1])])
