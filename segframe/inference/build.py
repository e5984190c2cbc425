"""What a trained network is used with, from a script's config: a dataset, a way of inference, a device."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import segframe.data
from segframe.config.instantiate import instantiate
from segframe.config.schema import DataConfig
from segframe.config.validate import check_targets
from segframe.data.base import SegmentationDataset
from segframe.errors import UserError, error_context
from segframe.inference.base import Inference, Postprocess
from segframe.models.from_checkpoint import arguments, find_class

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
        make_dataset = partial(find_class(plain, segframe.data, SegmentationDataset), **arguments(plain))
    else:
        make_dataset = instantiate(data.dataset, "data.dataset")
    with error_context("data"):
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
    inference = instantiate(config.inference, "inference")
    return inference, instantiate(config.postprocess, "postprocess") if config.postprocess else None


def pick_device(accelerator: str = "auto") -> torch.device:
    """The GPU where there is one, else the CPU."""
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"accelerator={accelerator}: it is auto, cpu or gpu")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"accelerator={accelerator}: there is no GPU here")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def list_files(dataset: Any) -> list[tuple[str, str]]:
    """The text files that a stored dataset node names, each with the setting that names it."""
    if not isinstance(dataset, dict):
        return []
    splits = dataset.get("splits")
    named = {f"splits.{name}": file for name, file in splits.items()} if isinstance(splits, dict) else {}
    named["classes"] = dataset.get("classes")
    return [(f"data.dataset.{key}", file) for key, file in named.items() if isinstance(file, str)]
