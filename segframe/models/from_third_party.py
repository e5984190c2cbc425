"""Networks of other projects' checkpoints, whose architecture is found by the names and shapes of their tensors."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segframe.config import schema
from segframe.config.composition import compose
from segframe.data.datasets.cityscapes import Cityscapes
from segframe.data.datasets.voc import VOC
from segframe.data.label_map import Palette, voc_palette
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.from_checkpoint import Restored, rebuild
from segframe.models.weights.checkpoint import CheckpointMetadata
from segframe.models.weights.pretrained import COUNTERS
from segframe.models.weights.third_party import recognize

log = logging.getLogger(__name__)

RESNETS = ("backbone=resnet50", "backbone=resnet101")
NETWORKS: dict[str, tuple[str, ...]] = {
    "VainF's DeepLabV3+": tuple(f"{net} head=deeplabv3plus_vainf head.output_stride=16" for net in RESNETS),
    "VainF's DeepLabV3": tuple(f"{net} head=deeplabv3 head.output_stride=16" for net in RESNETS),
    "torchvision's DeepLabV3": tuple(f"{net} head=deeplabv3" for net in RESNETS),
    "torchvision's FCN": tuple(f"{net} head=fcn" for net in RESNETS),
    "pytorch-fcn's FCN-32s": ("model=fcn32s_original",),
    "pytorch-fcn's FCN-16s": ("model=fcn16s_original",),
    "pytorch-fcn's FCN-8s": ("model=fcn8s_original",),
    "milesial's U-Net": ("model=unet", "model=unet_bilinear"),
    "deeplab-pytorch's DeepLab v2": ("model=deeplabv2",),
}
"""For each kind of file (weights.third_party.FORMATS) the settings of the networks that it may hold."""


def restore_third_party(content: dict[str, Any], path: Path, output_stride: int | None = None) -> Restored:
    """Return the network of another project's checkpoint; `content`: what torch.save wrote to `path`.

    UserError where its project is not known, or its network is none of NETWORKS.
    """
    weights = recognize(content, path)
    project = weights.origin.partition(" (")[0]
    others = re.compile(r"aux_head\..*|" + COUNTERS.pattern)  # of training alone
    state = {name: tensor for name, tensor in weights.state.items() if not others.fullmatch(name)}
    for settings in NETWORKS[project]:
        config = compose_network(settings)
        if (num_classes := count_classes(config, state)) is not None:
            break
    else:
        raise UserError(f"{path}: a file of {project}, whose network is none of these: {'; '.join(NETWORKS[project])}")
    if project == "pytorch-fcn's FCN-8s":
        log.warning("%s: read as FCN-8s trained in stages; one trained at once has the same tensors", path)
    network: Any = OmegaConf.to_container(config, resolve=True)
    parts = {key: network[key] for key in ("backbone", "head", "input_scales")}
    metadata = CheckpointMetadata({**parts, "normalize": weights.normalize}, *name_classes(project, num_classes))
    mean, std = (torch.tensor(weights.normalize[key]).float().view(-1, 1, 1) for key in ("mean", "std"))
    tensors = {name: state.get(name, torch.tensor(0)) for name in network_shapes(config, num_classes)}  # 0: counters
    return rebuild(metadata, {**tensors, "normalize.mean": mean, "normalize.std": std}, path, output_stride)


def compose_network(settings: str) -> DictConfig:
    """Return the config of a network, composed as the command line would."""
    schema.register()
    config = compose("train", settings.split())
    if "weights" in config.backbone:
        config.backbone.weights = None
    return config


def network_shapes(config: DictConfig, num_classes: int) -> dict[str, torch.Size]:
    """Return the shapes of a network's tensors, but for those of its normalisation, without their memory."""
    with torch.device("meta"):
        tensors = build_segmenter(config, num_classes).state_dict()
    return {name: tensor.shape for name, tensor in tensors.items() if not name.startswith("normalize.")}


def count_classes(config: DictConfig, state: dict[str, Tensor]) -> int | None:
    """Return the number of classes with which a network has exactly these tensors, counters aside; None if none."""
    found = {name: tensor.shape for name, tensor in state.items()}
    with torch.device("meta"):
        scores = build_segmenter(config, 2).score_layers
    candidates = {shape[0] for name, shape in found.items() if name.startswith(scores) and name.endswith(".weight")}
    for num_classes in sorted(candidates):
        shapes = network_shapes(config, num_classes)
        if found == {name: shape for name, shape in shapes.items() if not COUNTERS.fullmatch(name)}:
            return num_classes
    return None


def name_classes(project: str, num_classes: int) -> tuple[tuple[str, ...], Palette]:
    """Return names and palette: of the data that a project publishes weights for, if their number agrees."""
    if project.startswith("milesial") and num_classes == 2:
        return ("background", "car"), voc_palette(2)  # Carvana
    if num_classes == len(VOC.classes) and not project.startswith("milesial"):
        return VOC.classes, VOC.palette
    if project.startswith("VainF") and num_classes == 19:
        return Cityscapes.classes, Cityscapes.palette
    return tuple(f"class {k}" for k in range(num_classes)), voc_palette(num_classes)
