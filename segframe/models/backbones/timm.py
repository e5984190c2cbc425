"""Backbones of the library timm, which is optional: pip install -e '.[timm]'."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature, stage_strides
from segframe.models.weights.pretrained import import_timm, load_strictly, timm_state


class TimmBackbone(Backbone):
    """Any timm model whose feature maps are (N, C, h, w), each half the size of the one before, for images of any size.

    The map of stride 2**k is ck; a model may have no c1 (ConvNeXt). Where the image's size is no multiple of a stride,
    models that pad round the map's size up; those that cut the image into patches round it down.

    An `output_stride` below 32 dilates by timm's rules, where a model has them. Seen in timm 1.0.31: exact, as other
    backbones here are, for ResNet, ResNeXt, MobileNetV2 and Xception; with squeeze-and-excitation (SE-ResNet, RegNetY,
    MobileNetV3, EfficientNet) exact but for its means, which are then over more cells; not exact for ResNets whose
    shortcuts pool (resnet50d), for ConvNeXt at 8, and for tf_ variants, whose padding depends on the image's size.
    """

    has_blocks = False

    def __init__(self, variant: str, weights: str | None, output_stride: int, lr_multiplier: float) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        known = import_timm(f"backbone.variant={variant} needs timm").list_models()
        if variant not in known:
            close = ", ".join(get_close_matches(variant, known))
            raise UserError(f"backbone.variant={variant}: timm has no such model{close and '; did you mean '}{close}")
        stage_strides(output_stride)  # a known stride
        self.features = {
            name: feature._replace(stride=min(feature.stride, output_stride))
            for name, feature in describe(variant).items()
        }
        self.net = create(variant, output_stride)
        strides = self.net.feature_info.reduction()
        if strides != [feature.stride for feature in self.features.values()]:
            raise cannot_dilate(variant, output_stride)
        if weights is not None:
            state = feature_names(self.net, timm_state(variant, weights, imagenet=None))
            load_strictly(self.net, state, weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) to the maps of `features`."""
        return dict(zip(self.features, self.net(images), strict=True))


def create(variant: str, output_stride: int) -> Any:
    """timm's feature extractor, from scratch; its `feature_info` tells channels and strides."""
    timm = import_timm(f"backbone.variant={variant} needs timm")
    try:
        if output_stride == 32:  # not every model takes the argument
            return timm.create_model(variant, features_only=True)
        return timm.create_model(variant, features_only=True, output_stride=output_stride)
    except (AssertionError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # each has its own way
        if output_stride != 32:
            raise cannot_dilate(variant, output_stride) from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"backbone.variant={variant}: timm makes no feature maps of this model ({reason})") from error


def cannot_dilate(variant: str, output_stride: int) -> UserError:
    """What is said of a stride that a model does not offer."""
    return UserError(
        f"backbone.output_stride={output_stride}: timm cannot dilate {variant} to this stride; "
        "set backbone.output_stride=32, or another stride"
    )


def describe(variant: str) -> dict[str, Feature]:
    """The features of a model as it is, at stride 32; fails where they are none that a head can read."""
    with torch.device("meta"):
        net = create(variant, 32).eval()
        strides, channels = net.feature_info.reduction(), net.feature_info.channels()
        first = strides[0].bit_length() - 1
        if strides != [2 ** (first + k) for k in range(len(strides))] or strides[-1] > 32:
            raise refused(variant, f"its maps have the strides {strides}")
        size = (97, 50)  # no multiples of any stride
        try:
            offsets = centres(net)
            shapes = [tuple(m.shape[1:]) for m in net(torch.empty(1, 3, *size))]
        except Exception as error:  # each model has its own way to say that it takes one size only
            raise refused(variant, f"it fails for one of {size}") from error
    for (width, *cells), expected, stride in zip(shapes, channels, strides, strict=True):
        covered = all(n // stride <= c <= n // stride + 1 for n, c in zip(size, cells, strict=True))
        if width != expected or not covered:
            raise refused(variant, f"its map of stride {stride} is {(width, *cells)} for an image of {size}")
    return {f"c{first + k}": Feature(channels[k], stride, offsets[stride]) for k, stride in enumerate(strides)}


def refused(variant: str, reason: str) -> UserError:
    """What is said of a model that is no backbone for our heads (a transformer, mostly)."""
    return UserError(
        f"backbone.variant={variant}: segframe needs maps (N, C, h, w), each half the size of the one before, "
        f"for images of any size; {reason}"
    )


def centres(net: nn.Module) -> dict[int, float]:
    """Input coordinate of the centre of cell 0, by stride: what the strided layers make of it."""
    side = 128
    found = {2**k: 0.0 for k in range(6)}
    by_convolution: dict[int, bool] = {}

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        ends = (*inputs[:1], output)
        if len(ends) < 2 or any(not isinstance(x, Tensor) or x.ndim != 4 or side % x.shape[-1] for x in ends):
            return
        before, after = side // inputs[0].shape[-1], side // output.shape[-1]
        convolution = isinstance(layer, nn.Conv2d)
        # The first one at each stride counts, but a shortcut's pooling may come before the convolution beside it.
        if before < after and after in found and convolution > by_convolution.get(after, -1):
            by_convolution[after] = convolution
            # Others (blurs; tf_'s, whose padding depends on the image's size) count as centred on their first pixel.
            overhang = 0.0
            if type(layer) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
                overhang = (one(layer.kernel_size) - 1) / 2 - one(layer.padding)
            found[after] = found[before] + before * overhang

    hooks = [layer.register_forward_hook(note) for layer in net.modules() if not list(layer.children())]
    net(torch.empty(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return found


def one(sides: Any) -> int:
    """The height of a kernel or padding, which torch gives as one number or two."""
    return sides if isinstance(sides, int) else sides[0]


def feature_names(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's state dict under its feature extractor's names.

    Extractors rename modules: they flatten (`stages.0.blocks` is `stages_0.blocks`) or wrap (`model.stages.0.blocks`).
    """
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    sources = {name: name.removeprefix("model.").replace(".", "_") for name in net.state_dict()}
    return {name: flat[source] for name, source in sources.items() if source in flat}
