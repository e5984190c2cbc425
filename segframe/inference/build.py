"""Build what a trained network is used with from a config: dataset, inference, post-processing, device."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segframe.config.instantiate import instantiate
from segframe.config.run_schema import DataConfig
from segframe.config.trust import check_trust
from segframe.config.validate import check_targets
from segframe.data.base import SegmentationDataset, open_split
from segframe.errors import UserError, error_context
from segframe.inference.base import Inference, Postprocess, WholeImage


def build_dataset(
    data: DataConfig, split: str, classes: tuple[str, ...], trust: Sequence[str] | None
) -> SegmentationDataset:
    """Return a dataset's split without augmentation, which must have the checkpoint's classes.

    `trust`: where `data` comes from the checkpoint, the names that check_trust allows beside segframe's own.
    """
    if not data.dataset:
        raise UserError("data: the checkpoint names no dataset; choose one with data=...")
    if trust is not None:
        if not OmegaConf.is_dict(data.dataset) or "_target_" not in data.dataset:
            raise UserError("data.dataset: the checkpoint names no dataset; choose one with data=...")
        check_trust({"data": {"dataset": OmegaConf.to_container(data.dataset, resolve=True)}}, trust)
    make_dataset = instantiate(data.dataset, "data.dataset")
    try:
        with error_context("data"):
            dataset = open_split(make_dataset, data, split)
    except UserError as error:
        # The advice is for training.
        raise UserError(re.sub(r"type data\.(?:val|train)_split=", "type split=", str(error))) from error
    if dataset.classes != classes:
        raise UserError(
            f"data: the checkpoint has the classes {', '.join(classes)}; this dataset has {', '.join(dataset.classes)}"
        )
    return dataset


def build_inference(
    node: DictConfig | None, trained_with: Mapping[str, Any], trust: Sequence[str] | None = None
) -> Inference:
    """Return the inference of a config node; settings that are null come from the config of the network's training.

    None: whole images, as in the validations of runs without this setting. `trust`: where the node comes from a
    checkpoint, the names that check_trust allows beside segframe's own.
    """
    if node is None:
        return WholeImage()
    plain = OmegaConf.to_container(node, resolve=True)
    if trust is not None:
        check_trust({"inference": plain}, trust)
    check_targets(OmegaConf.create({"inference": plain}))
    inference = instantiate(plain, "inference")
    if not isinstance(inference, Inference):
        raise UserError(f"inference: it makes a {type(inference).__name__}; choose an option of configs/inference")
    return inference.with_training_defaults(trained_with)


def build_postprocess(node: DictConfig | None) -> Postprocess | None:
    check_targets(OmegaConf.create({"postprocess": node}))
    return instantiate(node, "postprocess") if node else None


def describe_postprocess(node: DictConfig | None) -> str:
    """Return the class name and arguments of a post-processing as text (`DenseCRF: bi_w=4.0, ...`), or `none`."""
    if not node:
        return "none"
    settings = ", ".join(f"{key!s}={value}" for key, value in node.items() if key != "_target_")
    return f"{str(node['_target_']).rpartition('.')[2]}: {settings}"


def pick_device(accelerator: str = "auto", setting: str = "accelerator") -> torch.device:
    """Return the device of an `accelerator` setting; auto: the GPU if there is one, else the CPU."""
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"{setting}={accelerator}: unknown; choose auto, cpu or gpu")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"{setting}={accelerator}: this machine has no GPU; choose auto or cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
