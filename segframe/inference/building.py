"""What a trained network is used with, from a script's config: a dataset, a way of inference, a device."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import segframe.data
from segframe.build import build
from segframe.checks import check_targets
from segframe.config import DataConfig
from segframe.data.base import SegmentationDataset
from segframe.errors import UserError, naming
from segframe.inference.base import Inference, Postprocess
from segframe.restore import arguments, stored_part
from segframe.stored import list_files

MAX_LIST = 1 << 26  # bytes: some million names


def build_dataset(data: DataConfig, split: str, classes: tuple[str, ...], stored: bool) -> SegmentationDataset:
    """A split as it is, of the dataset a checkpoint was trained on (`stored`: then one of ours only) or of another."""
    if not data.dataset:
        raise UserError("the checkpoint names no dataset; choose one with data=...")
    if stored:
        node = OmegaConf.to_container(data.dataset, resolve=True) if OmegaConf.is_dict(data.dataset) else None
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise UserError("the checkpoint's data.dataset names no dataset; choose one with data=...")
        plain = {str(key): value for key, value in node.items()}
        check_lists(plain, Path(data.root or ""))
        make_dataset = partial(stored_part(plain, segframe.data, SegmentationDataset), **arguments(plain))
    else:
        make_dataset = build(data.dataset, "data.dataset")
    with naming("data"):
        dataset = make_dataset(root=data.root, split=split)
    if dataset.classes != classes:
        raise UserError(
            f"the checkpoint knows the classes {', '.join(classes)}; this dataset has {', '.join(dataset.classes)}"
        )
    return dataset


def check_lists(node: dict[str, Any], root: Path) -> None:
    """UserError where what a checkpoint has read as lists of names is no file, or larger than any list."""
    for key, name in list_files(node):
        file = root.expanduser() / name
        if file.exists() and not (file.is_file() and file.stat().st_size <= MAX_LIST):
            raise UserError(f"{key}={name}: {file} is no list of names")


def build_inference(config: DictConfig) -> tuple[Inference, Postprocess | None]:
    """How a script's config runs a network, and what follows."""
    check_targets(OmegaConf.create({"inference": config.inference, "postprocess": config.postprocess}))
    inference = build(config.inference, "inference")
    return inference, build(config.postprocess, "postprocess") if config.postprocess else None


def pick_device(accelerator: str = "auto") -> torch.device:
    """The GPU where there is one, else the CPU."""
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"accelerator={accelerator}: it is auto, cpu or gpu")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"accelerator={accelerator}: there is no GPU here")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
