"""Networks rebuilt from checkpoints, only from segframe's own parts and those that the command line trusts."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from segframe.errors import UserError
from segframe.models.heads.base import Head
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights import checkpoint

BUILD_ERRORS = (LookupError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError, InstantiationException)
"""Errors of constructors for settings that a damaged or foreign checkpoint may have."""


class Restored(NamedTuple):
    """A trained network in evaluation mode, with its checkpoint's metadata and file."""

    segmenter: Segmenter
    metadata: checkpoint.CheckpointMetadata
    path: Path


def restore(path: str | Path, output_stride: int | None = None, *, trust: Collection[str] = ()) -> Restored:
    """Return the network of a checkpoint or a run's folder, built from that file alone.

    `output_stride`: another one for the backbone than the network was trained with, e.g. 8 instead of 16 for denser
    logits. `trust`: the packages, modules or classes outside segframe that may be built. UserError where the network
    cannot be built.
    """
    path = checkpoint.find_checkpoint(path)
    return rebuild(*checkpoint.load_run(path, trust), path, output_stride)


def rebuild(
    metadata: checkpoint.CheckpointMetadata,
    state: dict[str, Tensor],
    path: Path,
    output_stride: int | None = None,
    *,
    diverged: bool = False,
) -> Restored:
    """Return the network of a checkpoint's metadata and state dict, whose config names trusted parts alone.

    `diverged`: accept weights that are NaN or infinite.
    """
    config = metadata.config
    try:
        settings = config["backbone"] | ({"weights": None} if "weights" in config["backbone"] else {})
        if output_stride is not None:
            if "output_stride" not in settings:
                raise UserError(f"output_stride={output_stride}: {settings['_target_']} has a fixed output stride")
            settings["output_stride"] = output_stride
        frozen = settings.pop("frozen", False)
        backbone = instantiate(settings, _convert_="all")
        if frozen:
            backbone.freeze(frozen, settings.get("in_channels", 3))

        def restore_head(name: str) -> Head:
            make_head = instantiate(config[name], _convert_="all")
            return make_head(features=backbone.features, num_classes=len(metadata.classes))

        aux_head = restore_head("aux_head") if config.get("aux_head") else None
        scales = config.get("input_scales", [])
        segmenter = Segmenter(backbone, restore_head("head"), aux_head, Normalize(**config["normalize"]), scales)
        if any(tensor.dtype == torch.float64 for tensor in state.values()):
            segmenter.double()
        segmenter.load_state_dict(state)
    except BUILD_ERRORS as error:
        stride = "" if output_stride is None else f" at output_stride={output_stride}"
        reason = " ".join(str(error.__cause__ or error).split())[:250]
        raise UserError(f"{path}: the network it describes cannot be built{stride} ({reason})") from error
    for name, tensor in segmenter.state_dict().items():
        if not diverged and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite; choose an earlier checkpoint")
    return Restored(segmenter.eval(), metadata, path)
