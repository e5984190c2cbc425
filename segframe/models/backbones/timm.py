"""Backbones from the optional library timm (pip install 'segframe[timm]')."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature, map_norms, stage_strides
from segframe.models.weights.pretrained import difference, import_timm, load_strictly, timm_state


class TimmBackbone(Backbone):
    """Any timm model with maps (N, C, h, w), each half the size of the one before, for images of any size.

    The map of stride 2**k is ck; a model may have no c1 (ConvNeXt). If the image's size is no multiple of a stride,
    models with padding round the map's size up, those with patches round it down.

    `map_norm`: a LayerNorm over the channels of each map, as ConvNeXt has before UPerNet (Liu et al., 2022).

    An `output_stride` below 32 dilates by timm's own rules, if the model supports it. In timm 1.0.31 this is exact for
    ResNet, ResNeXt, MobileNetV2 and Xception; exact except for the means of squeeze-and-excitation, which are taken
    over more cells, for SE-ResNet, RegNetY, MobileNetV3 and EfficientNet; not exact for ResNets with pooling in their
    shortcuts (resnet50d), ConvNeXt at stride 8, and tf_ variants, whose padding depends on the image's size.
    """

    has_blocks = False

    def __init__(
        self,
        variant: str,
        weights: str | None,
        output_stride: int,
        lr_multiplier: float,
        in_channels: int = 3,
        map_norm: bool = False,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        known = import_timm(f"backbone.variant={variant} needs timm").list_models()
        if variant not in known:
            close = ", ".join(get_close_matches(variant, known))
            raise UserError(f"backbone.variant={variant}: timm has no such model{close and '; did you mean '}{close}")
        stage_strides(output_stride)  # checks the value
        self.features = {
            name: feature._replace(stride=min(feature.stride, output_stride))
            for name, feature in describe(variant).items()
        }
        self.net = create(variant, output_stride, in_channels)
        strides = self.net.feature_info.reduction()
        if strides != [feature.stride for feature in self.features.values()]:
            raise cannot_dilate(variant, output_stride)
        self.norms = map_norms(self.features) if map_norm else None
        if weights is not None:
            state = timm_state(variant, weights, imagenet=None)
            with torch.device("meta"):  # whose last layers a feature extractor lacks
                classifier = import_timm("").create_model(variant).state_dict()
            check_model(variant, classifier, state, weights, known)
            others = {name: tensor for name, tensor in state.items() if name not in classifier}
            load_strictly(self.net, feature_names(self.net, state) | others, weights, network=f"timm's {variant}")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of `features` for images (N, C, H, W)."""
        maps = dict(zip(self.features, channels_first(self.net, images), strict=True))
        return maps if self.norms is None else {name: self.norms[name](x) for name, x in maps.items()}


def channels_first(net: Any, images: Tensor) -> list[Tensor]:
    """Return a feature extractor's maps as (N, C, h, w); some models hold them as (N, h, w, C)."""
    is_last = getattr(net, "output_fmt", None) == "NHWC"
    return [x.permute(0, 3, 1, 2) if is_last else x for x in net(images)]


def check_model(
    variant: str, own: dict[str, Tensor], state: dict[str, Tensor], weights: str, known: Sequence[str]
) -> None:
    """UserError if a file is another model's: the one that its name begins with, or one that differs in its number."""
    problem = difference(own, state)
    if problem is None:
        return
    named = sorted((name for name in known if Path(weights).name.startswith(name)), key=len, reverse=True)
    numbered = [name for name in known if re.sub(r"\d", "", name) == re.sub(r"\d", "", variant)]
    with torch.device("meta"):
        for name in (*named[:3], *numbered[:10]):
            if name != variant and difference(import_timm("").create_model(name).state_dict(), state) is None:
                raise UserError(
                    f"backbone.weights={weights}: {problem}; it is a file of {name}: choose backbone.variant={name}, "
                    f"or give a file of {variant}"
                )


def create(variant: str, output_stride: int, in_channels: int = 3) -> Any:
    """Return timm's feature extractor, randomly initialised; `feature_info` has its channels and strides."""
    timm = import_timm(f"backbone.variant={variant} needs timm")
    try:
        # Not every model takes these arguments.
        stride = {} if output_stride == 32 else {"output_stride": output_stride}
        channels = {} if in_channels == 3 else {"in_chans": in_channels}
        return timm.create_model(variant, features_only=True, **stride, **channels)
    except (AssertionError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # differs by model
        if output_stride != 32:
            raise cannot_dilate(variant, output_stride) from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"backbone.variant={variant}: timm makes no feature maps of this model ({reason})") from error


def cannot_dilate(variant: str, output_stride: int) -> UserError:
    return UserError(
        f"backbone.output_stride={output_stride}: timm cannot dilate {variant} to this stride; "
        "set backbone.output_stride=32, or another stride"
    )


def describe(variant: str) -> dict[str, Feature]:
    """Return the features of a model at stride 32; UserError if its maps are not usable by heads."""
    with torch.device("meta"):
        net = create(variant, 32).eval()
        strides, channels = net.feature_info.reduction(), net.feature_info.channels()
        first = strides[0].bit_length() - 1
        if strides != [2 ** (first + k) for k in range(len(strides))] or strides[-1] > 32:
            raise unsupported(variant, f"its maps have the strides {strides}")
        size = (97, 50)  # no multiples of any stride
        try:
            offsets = centres(net)
            shapes = [tuple(m.shape[1:]) for m in channels_first(net, torch.empty(1, 3, *size))]
        except Exception as error:  # models for one size only raise almost anything
            raise unsupported(variant, f"it fails for one of {size}") from error
    for (width, *cells), expected, stride in zip(shapes, channels, strides, strict=True):
        covered = all(n // stride <= c <= n // stride + 1 for n, c in zip(size, cells, strict=True))
        if width != expected or not covered:
            raise unsupported(variant, f"its map of stride {stride} is {(width, *cells)} for an image of {size}")
    return {f"c{first + k}": Feature(channels[k], stride, offsets[stride]) for k, stride in enumerate(strides)}


def unsupported(variant: str, reason: str) -> UserError:
    """Return the error for a model whose maps heads cannot use (mostly transformers)."""
    return UserError(
        f"backbone.variant={variant}: segframe needs maps (N, C, h, w), each half the size of the one before, "
        f"for images of any size; {reason}"
    )


def centres(net: nn.Module) -> dict[int, float]:
    """Return the input coordinate of cell 0's centre by stride, computed from the strided layers."""
    side = 128
    found = {2**k: 0.0 for k in range(6)}
    seen = set()

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        ends = (*inputs[:1], output)
        if len(ends) < 2 or any(not isinstance(x, Tensor) or x.ndim != 4 or side % x.shape[-1] for x in ends):
            return
        before, after = side // inputs[0].shape[-1], side // output.shape[-1]
        convolution = isinstance(layer, nn.Conv2d)
        # The last convolution at each stride counts, after those within attention (PVT), or else the first other layer.
        if before < after and after in found and (convolution or after not in seen):
            seen.add(after)
            # Others (blur pooling; tf_'s size-dependent padding) are taken as centred on their first pixel.
            overhang = 0.0
            if type(layer) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
                overhang = (first_side(layer.kernel_size) - 1) / 2 - first_side(layer.padding)
            found[after] = found[before] + before * overhang

    hooks = [layer.register_forward_hook(record) for layer in net.modules() if not list(layer.children())]
    net(torch.empty(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return found


def first_side(sides: Any) -> int:
    """Return the height of a kernel or padding, an int or a pair."""
    return sides if isinstance(sides, int) else sides[0]


def feature_names(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a classifier's state dict under its feature extractor's names.

    Extractors flatten modules (`stages.0.blocks` becomes `stages_0.blocks`) or wrap them (`model.stages.0.blocks`).
    """
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    sources = {name: name.removeprefix("model.").replace(".", "_") for name in net.state_dict()}
    return {name: flat[source] for name, source in sources.items() if source in flat}
