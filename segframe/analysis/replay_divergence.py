"""A step whose loss was not finite, computed again: in which image, in which layer."""

from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from segframe import IGNORE_INDEX
from segframe.config.schema import ReplayConfig
from segframe.config.validate import check_keys
from segframe.errors import UserError, translate_errors
from segframe.inference.base import autocast_dtype
from segframe.inference.build import pick_device
from segframe.models.from_checkpoint import restore, restore_loss
from segframe.models.losses.base import Loss
from segframe.models.segmenter import Segmenter
from segframe.models.weights import checkpoint
from segframe.training.callbacks.divergence import FILE, Step
from segframe.visualization.overlays import Color, fit_height, legend, overlay, save_png
from segframe.visualization.tables import plain_table, print_table


class DivergedStep(NamedTuple):
    """A step as its run left it, ready to be computed again."""

    segmenter: Segmenter
    loss: Loss
    output_weights: dict[str, float]
    config: dict[str, Any]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    step: Step
    value: float
    """The loss in training."""


class Image(NamedTuple):
    """What became of one image of the batch."""

    name: str
    loss: float
    """Of this image alone, after the forward pass of the whole batch."""
    void: float
    """The share of its pixels that no loss sees."""
    broken: str
    """The first layer whose output for it is not finite; empty where all are."""


class Replay(NamedTuple):
    """A step, computed again."""

    loss: float
    images: list[Image]
    layer: str
    """The first whose output is not finite, for whatever image; empty where all are."""
    weights: list[str]
    """The parameters that are not finite."""
    gradient: float
    """The norm of the gradient of all parameters together."""


def locate(path: Path) -> Path:
    """The file that is meant: itself, or a run folder's."""
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise UserError(f"there is no {found}: a run leaves it where its loss was not finite")
    return found


def read(path: Path) -> DivergedStep:
    """What divergence.py wrote; its network and loss are built from our own parts alone."""
    segmenter, metadata, _ = restore(path, diverged=True)
    content, config = checkpoint.load_file(path), metadata.config
    try:
        batch = content["batch"]
        image, mask, names = batch["image"], batch["mask"], batch["name"]
        shapes = image.dim() == 4 and image.shape[1] == 3 and mask.shape == (len(names), *image.shape[2:])
        if not shapes or len(image) != len(names) or {image.dtype, mask.dtype} != {torch.uint8}:
            raise ValueError("images (N, 3, H, W), masks (N, H, W) and N names")
        rates = {str(part): float(rate) for part, rate in content["learning_rates"].items()}
        kept = {"image": image, "mask": mask, "name": [str(name) for name in names]}
        step = Step(int(content["step"]), kept, rates, int(content["seed"]))
        value = float(content["loss"])
        weights = {str(name): float(weight) for name, weight in config["output_weights"].items()}
        segmenter.frozen_norm = config.get("batch_norm", {}).get("frozen")
        if not config["trainer"].get("channels_last", True):
            segmenter.memory_format = torch.contiguous_format
        loss = restore_loss(config["loss"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no step of a run whose loss was not finite ({error!r})") from error
    return DivergedStep(segmenter, loss, weights, config, metadata.classes, metadata.palette, step, value)


def replay(step_data: DivergedStep, device: torch.device, precision: str | None) -> Replay:
    """The step's forward and backward pass as in training; `precision` None: in the training's, else as it says."""
    segmenter, loss = step_data.segmenter.to(device).train(), step_data.loss.to(device)
    segmenter.autocast_dtype = autocast_dtype(precision, step_data.config)
    images, masks = step_data.step.batch["image"].to(device), step_data.step.batch["mask"].to(device)
    broken: dict[int, str] = {}
    for name, layer in segmenter.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(partial(note_broken, broken, name))
    torch.manual_seed(step_data.step.seed)
    outputs = segmenter.outputs(images)

    def weighted(chosen: slice) -> Tensor:
        parts = [
            step_data.output_weights[name] * loss(logits._replace(values=logits.values[chosen]), masks[chosen])
            for name, logits in outputs.items()
        ]
        return torch.stack(parts).sum()

    total = weighted(slice(None))
    each = [
        Image(name, weighted(slice(k, k + 1)).item(), void_share(masks[k]), broken.get(k, ""))
        for k, name in enumerate(step_data.step.batch["name"])
    ]
    total.backward()
    named = dict(segmenter.named_parameters())
    gradients = [parameter.grad for parameter in named.values() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients).item()
    weights = [name for name, parameter in named.items() if not parameter.isfinite().all()]
    return Replay(total.item(), each, next(iter(broken.values()), ""), weights, norm)


def note_broken(broken: dict[int, str], name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
    """Notes the images for which a layer is the first whose output is not finite."""
    if isinstance(output, Tensor) and output.is_floating_point():
        for k in (~output.isfinite().flatten(1).all(1)).nonzero().flatten().tolist():
            broken.setdefault(k, f"{name} ({type(layer).__name__})")


def void_share(mask: Tensor) -> float:
    """The share of a mask's pixels that count nowhere."""
    return (mask == IGNORE_INDEX).float().mean().item()


def verdict(step_data: DivergedStep, found: Replay) -> str:
    """What it comes to, in a sentence."""
    if found.weights:
        more = f" and {len(found.weights) - 1} more" if len(found.weights) > 1 else ""
        return f"the weights were broken before this step: {found.weights[0]}{more} not finite"
    if found.layer:
        return f"the weights are finite: {found.layer} made what is not"
    if not isfinite(found.loss):
        return "weights and scores are finite: the loss of these scores is not"
    if not isfinite(found.gradient):
        return "the loss is finite here, its gradient is not"
    return "loss and gradient are finite here: what differs from training, device or precision, made the difference"


def picture(step_data: DivergedStep, k: int) -> NDArray[np.uint8]:
    """The k-th image as the network got it, beside its mask's colours, over a legend."""
    image = fit_height(step_data.step.batch["image"][k].permute(1, 2, 0).cpu().numpy())
    mask = fit_height(step_data.step.batch["mask"][k].cpu().numpy())
    panels = np.hstack([image, overlay(image, mask, step_data.palette)])
    present = [int(index) for index in np.unique(mask) if index < len(step_data.classes) or index == IGNORE_INDEX]
    return np.vstack([panels, legend(step_data.classes, step_data.palette, present, panels.shape[1])])


def replay_step(config: DictConfig) -> None:
    """One forward and backward pass over the batch in diverged.pt."""
    check_keys(config, ReplayConfig)
    path = locate(Path(config.checkpoint))
    step_data = read(path)
    device = pick_device(config.accelerator)
    with translate_errors(less="accelerator=cpu has more of it"):
        found = replay(step_data, device, config.precision)
    rates = ", ".join(f"{part} {rate:g}" for part, rate in step_data.step.rates.items())
    precision = config.precision or step_data.config["trainer"]["precision"]
    print(f"step {step_data.step.number}, learning rate {rates}: the loss was {step_data.value}")
    print(f"computed again on {device}, {precision}: {found.loss:g}, norm of the gradient {found.gradient:g}")
    rows = [
        {"image": i.name, "loss": f"{i.loss:.4g}", "void %": f"{100 * i.void:.1f}", "first not finite": i.broken or "-"}
        for i in found.images
    ]
    print_table(plain_table(rows, str(path)))
    print(verdict(step_data, found))
    folder = Path(HydraConfig.get().runtime.output_dir)
    for k, name in enumerate(step_data.step.batch["name"]):
        save_png(folder / f"{k:02}_{Path(name).stem}.png", picture(step_data, k))
    print(f"images and masks as the network got them: {folder}")
