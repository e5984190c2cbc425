"""Initial weights: from segframe's checkpoints, and from other projects' files with their names translated."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from torch import Tensor, nn

from segframe.config.schema import CONFIG_DIR
from segframe.errors import UserError
from segframe.models.weights import checkpoint
from segframe.models.weights.pretrained import adapt_channels

State = dict[str, Tensor]
Names = list[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions of another project's names with their replacements; the first match is used."""


class Weights(NamedTuple):
    """Initial weights of a run."""

    state: State
    classes: tuple[str, ...] | None
    """None if the file does not name them."""
    normalize: dict[str, Any]
    """The image normalisation they were trained with, as in the config."""
    origin: str
    """The recognised kind of file."""
    expects: dict[str, Any]
    """Settings they were trained with; with others they load, but predictions differ."""
    heads: dict[str, Any]
    """The classes of head and aux_head, where the file names them."""


class Format(NamedTuple):
    """Another project's kind of checkpoint."""

    origin: str
    has: tuple[str, ...]
    """Tensor names that distinguish it from the formats after it."""
    names: Names
    normalize: str
    """An option of configs/normalize."""
    expects: dict[str, Any]
    """The settings that the weights were trained with, by key."""


VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Indices of the convolutions in torchvision's VGG-16 `features`."""


def vgg16_names() -> Names:
    """Return the translation of Caffe's conv1_1 ... conv5_3, fc6, fc7."""
    caffe = [f"conv{block}_{k}" for block, depth in enumerate((2, 2, 3, 3, 3), start=1) for k in range(1, depth + 1)]
    convs = [(rf"{name}\.", f"backbone.layers.{index}.") for name, index in zip(caffe, VGG16_CONVS, strict=True)]
    return [*convs, (r"(fc[67])\.", r"backbone.\1.")]


def pytorch_fcn(stride: int, presets: str, *upscores: str) -> Format:
    """Return the format of pytorch-fcn's networks; `upscores`: its transposed convolutions, coarsest first."""
    scores = [(r"score_fr\.", "head.score.c5."), (r"score_pool([34])\.", r"head.score.c\1.")]
    names = [*vgg16_names(), *scores, *((rf"{name}\.", f"head.upscore.{k}.") for k, name in enumerate(upscores))]
    distinctive = (f"{upscores[0]}.weight", f"{upscores[-1]}.weight")
    return Format(
        f"pytorch-fcn's FCN-{stride}s ({presets})", distinctive, names, "caffe", {"backbone.input_padding": 100}
    )


def aspp_names(theirs: str) -> Names:
    """Return the translation of torchvision's ASPP under a prefix."""
    return [
        (rf"{theirs}convs\.4\.1\.", "head.aspp.convs.4.conv."),
        (rf"{theirs}convs\.4\.2\.", "head.aspp.convs.4.bn."),
        (theirs, "head.aspp."),
    ]


def deeplabv3(owner: str, theirs: str) -> Format:
    """Return the format of torchvision's DeepLabV3, whose head has the prefix `theirs`."""
    prefix = re.escape(theirs)
    names = [
        *aspp_names(rf"{prefix}0\."),
        (rf"{prefix}([12])\.", lambda m: f"head.conv.{int(m[1]) - 1}."),
        (rf"{prefix}4\.", "head.classifier."),
        *TORCHVISION_REST,
    ]
    return Format(f"{owner}'s DeepLabV3 (head=deeplabv3)", (f"{theirs}0.project.0.weight",), names, "imagenet", EDGES)


TORCHVISION_REST: Names = [(r"aux_classifier\.", "aux_head.layers."), (r"backbone\.", "backbone.")]
DEEPLABV2_LAYERS = {
    "reduce.conv": "conv1",
    "reduce.bn": "bn1",
    "conv3x3.conv": "conv2",
    "conv3x3.bn": "bn2",
    "increase.conv": "conv3",
    "increase.bn": "bn3",
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
}

EDGES = {"backbone.caffe_form": False, "backbone.multi_grid": None, "head.align_corners": False}

FORMATS = [
    Format(
        "VainF's DeepLabV3+ (head=deeplabv3plus_vainf)",
        ("classifier.aspp.project.0.weight", "classifier.classifier.3.weight"),
        [
            *aspp_names(r"classifier\.aspp\."),
            (r"classifier\.project\.", "head.project."),
            (r"classifier\.classifier\.([01])\.", r"head.decoder.0.\1."),
            (r"classifier\.classifier\.3\.", "head.classifier."),
            (r"backbone\.", "backbone."),
        ],
        "imagenet",
        EDGES,
    ),
    deeplabv3("VainF", "classifier.classifier."),
    deeplabv3("torchvision", "classifier."),
    Format(
        "torchvision's FCN (head=fcn)",
        ("classifier.4.weight", "backbone.conv1.weight"),
        [(r"classifier\.", "head.layers."), *TORCHVISION_REST],
        "imagenet",
        EDGES,
    ),
    pytorch_fcn(32, "model=fcn32s_original", "upscore"),
    pytorch_fcn(16, "model=fcn16s_original", "upscore2", "upscore16"),
    pytorch_fcn(
        8,
        "model=fcn8s_original, or fcn8s-atonce_original where it was trained at once",
        *("upscore2", "upscore_pool4", "upscore8"),
    ),
    Format(
        "milesial's U-Net (model=unet, or unet_bilinear)",
        ("inc.double_conv.0.weight",),
        [
            (r"inc\.double_conv\.", "backbone.stages.0."),
            (r"down(\d)\.maxpool_conv\.1\.double_conv\.", r"backbone.stages.\1."),
            (r"up(\d)\.up\.", lambda m: f"head.up.{int(m[1]) - 1}.0."),
            (r"up(\d)\.conv\.double_conv\.", lambda m: f"head.conv.{int(m[1]) - 1}."),
            (r"outc\.conv\.", "head.classifier."),
        ],
        "unit",
        {"backbone.padded": True, "head.padded": True},
    ),
    Format(
        "deeplab-pytorch's DeepLab v2 (model=deeplabv2)",
        ("base.aspp.c0.weight",),
        [
            (r"base\.layer1\.conv1\.conv\.", "backbone.conv1."),
            (r"base\.layer1\.conv1\.bn\.", "backbone.bn1."),
            (
                r"base\.layer(\d)\.block(\d+)\.(\w+\.(?:conv|bn))\.",
                lambda m: f"backbone.layer{int(m[1]) - 1}.{int(m[2]) - 1}.{DEEPLABV2_LAYERS[m[3]]}.",
            ),
            (r"base\.aspp\.c(\d)\.", r"head.score.c5.\1."),
        ],
        "caffe",
        {"backbone.caffe_form": True, "head.align_corners": False, "input_scales": [0.75, 0.5]},
    ),
]


def read_weights(path: str | Path) -> Weights:
    """Return the weights of a run's folder, a segframe checkpoint, or another project's file in one of FORMATS."""
    path = checkpoint.find_checkpoint(path)
    content = checkpoint.load_file(path)
    if checkpoint.KEY in content:
        metadata, state = checkpoint.parse_run(content, path)
        state = {name: tensor for name, tensor in state.items() if not name.startswith("normalize.")}
        normalize = {"bgr": False, **metadata.config["normalize"]}
        parts = {part: metadata.config.get(part) for part in ("head", "aux_head")}
        heads = {part: node.get("_target_") for part, node in parts.items() if isinstance(node, dict)}
        return Weights(state, metadata.classes, normalize, "a segframe checkpoint", {}, heads)
    return recognize(content, path)


def recognize(content: dict[str, Any], path: Path) -> Weights:
    """Return the weights of another project's file; `content`: what torch.save wrote to `path`."""
    state = checkpoint.extract_state_dict(content, path)
    for format_ in FORMATS:
        if all(name in state for name in format_.has):
            normalize = normalization(format_.normalize)
            return Weights(translate(state, format_.names), None, normalize, format_.origin, format_.expects, {})
    known = "; ".join(format_.origin.partition(" (")[0] for format_ in FORMATS)
    raise UserError(f"{path} is neither a segframe checkpoint nor one of these: {known}")


def translate(state: State, names: Names) -> State:
    """Return a state dict with translated names; others stay, to be reported as left out."""
    found = {}
    for name, tensor in state.items():
        pair = next((pair for pair in names if re.match(pair[0], name)), None)
        found[name if pair is None else re.sub(f"^{pair[0]}", pair[1], name)] = tensor
    return found


def normalization(option: str) -> dict[str, Any]:
    node = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "normalize" / f"{option}.yaml"))
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def load_what_fits(net: nn.Module, state: State, of_other_classes: tuple[str, ...] = ()) -> list[str]:
    """Copy every tensor of equal name and shape; return descriptions of those left out.

    The weights of the first convolution are adapted to the network's number of channels.

    `of_other_classes`: prefixes of tensors that belong to other classes and are left out. Descriptions have the reason,
    e.g. `head.conv.weight (21, 256, 1, 1), here (11, 256, 1, 1)`.
    """
    own = net.state_dict()
    fits, left_out = {}, []
    for name, tensor in state.items():
        text = f"{name} {tuple(tensor.shape)}"
        tensor = adapt_channels(tensor, own.get(name)) if name.startswith("backbone.") else tensor
        if name not in own:
            left_out.append(f"{text}, not in this network")
        elif own[name].shape != tensor.shape:
            left_out.append(f"{text}, here {tuple(own[name].shape)}")
        elif name.startswith(of_other_classes):
            left_out.append(f"{text}, of other classes")
        else:
            fits[name] = tensor
    net.load_state_dict(fits, strict=False)
    return left_out
