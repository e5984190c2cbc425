"""What a checkpoint holds, and how one is read: as data from a stranger, never as code."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segframe.errors import UserError

KEY = "segframe"  # of our own part in Lightning's checkpoint


class About(NamedTuple):
    """What a checkpoint says of its network: enough to build it again without config files or data."""

    config: dict[str, Any]
    """The run's resolved config as plain containers."""
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def locate(path: str | Path) -> Path:
    """The checkpoint file that is meant: the file itself, or the best (else last) checkpoint of a run's folder."""
    path = Path(path)
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / "checkpoints" / name).is_file():
                return path / "checkpoints" / name
        raise UserError(f"{path} is a folder without checkpoints/best.ckpt or checkpoints/last.ckpt")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a file that torch.save wrote, tensors on the CPU; only plain containers and tensors are let in."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything; nothing of ours runs in there
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as a checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    return content


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict from a file that holds one, bare or (as Lightning's do) under "state_dict"."""
    content = read(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} holds no state dict of tensors")
    return state


def describe(about: About) -> dict[str, Any]:
    """`about` as plain containers, to be stored."""
    return {"config": about.config, "classes": list(about.classes), "palette": [list(c) for c in about.palette]}


def read_run(path: Path) -> tuple[About, dict[str, Tensor]]:
    """What a segframe checkpoint says of its network, and the network's state dict."""
    content = read(path)
    try:
        stored = content[KEY]
        if not isinstance(stored["config"], dict) or not isinstance(content["state_dict"], dict):
            raise TypeError("config and state_dict are dictionaries")
        palette = tuple((int(r), int(g), int(b)) for r, g, b in stored["palette"])
        about = About(stored["config"], tuple(map(str, stored["classes"])), palette)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a segframe checkpoint: it does not say how its network is built") from error
    return about, network_state(content["state_dict"])


def network_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a task's state dict."""
    prefix = "segmenter."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


class Weights(NamedTuple):
    """Weights to start another run from."""

    state: dict[str, Tensor]
    of_other_classes: set[str]
    """Names of the tensors that score classes the new run does not have."""


def read_weights(path: Path, classes: tuple[str, ...]) -> Weights:
    """Those of a segframe checkpoint, but for its normalisation, or of torchvision's segmentation models."""
    content = read(path)
    if KEY not in content:
        state = read_state_dict(path)
        if not any(name.startswith("classifier.") for name in state):
            raise UserError(f"{path} is neither a segframe checkpoint nor one of torchvision's deeplabv3 or fcn models")
        return Weights(from_torchvision(state), set())
    about, state = read_run(path)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("normalize.")}
    scores = {n for n, t in state.items() if n.startswith(("head.", "aux_head.")) and len(about.classes) in t.shape[:2]}
    return Weights(state, scores if about.classes != classes else set())


def load_what_fits(net: nn.Module, weights: Weights) -> tuple[list[str], list[str]]:
    """Copies every tensor of equal name, shape and meaning; returns the ones left out and the net's that stay.

    Those left out are told with the reason, e.g. `head.conv.weight (21, 256, 1, 1), here (11, 256, 1, 1)`.
    """
    own = net.state_dict()
    fits, left_out = {}, []
    for name, tensor in weights.state.items():
        told = f"{name} {tuple(tensor.shape)}"
        if name not in own:
            left_out.append(f"{told}, not in this network")
        elif own[name].shape != tensor.shape:
            left_out.append(f"{told}, here {tuple(own[name].shape)}")
        elif name in weights.of_other_classes:
            left_out.append(f"{told}, of other classes")
        else:
            fits[name] = tensor
    net.load_state_dict(fits, strict=False)
    return left_out, [name for name in own if name not in fits]


TORCHVISION = {  # prefix of torchvision's segmentation models (deeplabv3 and fcn differ below `classifier.`) -> ours
    "deeplabv3": {
        "classifier.0.convs.4.1.": "head.aspp.convs.4.conv.",
        "classifier.0.convs.4.2.": "head.aspp.convs.4.bn.",
        "classifier.0.": "head.aspp.",
        "classifier.1.": "head.conv.0.",
        "classifier.2.": "head.conv.1.",
        "classifier.4.": "head.classifier.",
        "aux_classifier.": "aux_head.layers.",
    },
    "fcn": {"classifier.": "head.layers.", "aux_classifier.": "aux_head.layers."},
}


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's deeplabv3_resnet* or fcn_resnet* under the names of our modules."""
    prefixes = TORCHVISION["deeplabv3" if "classifier.0.project.0.weight" in state else "fcn"]

    def rename(name: str) -> str:
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        return prefixes[prefix] + name.removeprefix(prefix) if prefix else name

    return {rename(name): tensor for name, tensor in state.items()}
