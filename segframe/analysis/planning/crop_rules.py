"""Rules of a plan: crops, batch, and what depends on the crops' size. Pure functions of facts."""

from collections.abc import Sequence
from math import ceil, inf, sqrt
from typing import NamedTuple

from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.facts import DataFacts, MachineFacts, Size, StepFacts
from segframe.training.untrained_taps import LARGEST_RATE

BATCH = {False: 8, True: 16}
"""Images per step by whether there is a GPU: 16 as in DeepLab v3 (Chen et al., 2017)."""
ACCUMULATED_BATCH = 8
"""Images per step whose gradients are accumulated if memory holds fewer."""
SMALLEST_SIDE, SIDE_STEP = 192, 32
"""Smallest side of crops, and the multiple that sides are rounded to (the stride of the coarsest maps), in pixels."""
LARGEST_AREA = 769**2
"""Pixels of the largest crop: 769x769, as DeepLabV3+ is trained on Cityscapes (Chen et al., 2018)."""
FEWEST_STEPS = 1000
"""Minimum number of optimizer steps; crops are made smaller until the budget holds so many."""
MEMORY_SHARE = 0.6
"""Fraction of the free memory that a training step may use."""
FINE_STRIDE, FEWEST_CELLS = 8, 6
"""The finest output stride of DeepLab v3, and cells along crops below which it is chosen."""
LARGEST_RATIO = 3.0
"""Side of an image over that of a crop, above which images are read in sliding windows."""
LARGEST_SCALE = 2.0
"""Upper limit of scale augmentation; DeepLab scales images by 0.5 to 2."""
ENLARGED = 1.3333
"""Scale of images with narrow objects at inference, that of experiment=camvid."""


class Crop(NamedTuple):
    """Size and number of the crops of a step."""

    size: Size
    batch: int
    accumulate: int
    reason: str
    """Why the crops have this size."""
    batch_reason: str


def choose_crop(data: DataFacts, machine: MachineFacts, step: StepFacts, seconds: float, batch: int | None) -> Crop:
    """Choose crop size and batch size: the median image size, or less where time or memory do not suffice.

    As nnU-Net (Isensee et al., 2021): begin with the median size, then shrink the crops, and the batch last. A step's
    time and memory are taken as proportional to its pixels. `batch`: the user's.
    """
    wanted = batch or BATCH[machine.is_gpu]
    height, width = data.size
    limits = {
        "the median image": height * width,
        "the largest crops that are usual": LARGEST_AREA,
        f"the budget's {FEWEST_STEPS} steps or more": seconds / FEWEST_STEPS / wanted / (step.seconds / step.pixels),
    }
    per_pixel = step.peak_bytes / step.pixels if step.peak_bytes else 0.0
    if machine.device_bytes and per_pixel:
        limits["the memory"] = MEMORY_SHARE * machine.device_bytes / per_pixel / wanted
    bound = min(limits, key=lambda name: limits[name])
    share = min(1.0, max(sqrt(limits[bound] / (height * width)), SMALLEST_SIDE / min(height, width)))
    size = rounded(height, share), rounded(width, share)
    reason = f"{share_of_image(data, size):.2f} of the median image of {height}x{width}, bound by {bound}"
    if share == 1:
        reason = f"the median image, {height}x{width}, in steps of {SIDE_STEP}"
    elif min(size) == SMALLEST_SIDE:
        reason = f"the smallest crops, {SMALLEST_SIDE} px; bound by {bound}"
    fits = wanted
    if machine.device_bytes and per_pixel and batch is None:
        fits = max(1, min(wanted, int(MEMORY_SHARE * machine.device_bytes / per_pixel / (size[0] * size[1]))))
    accumulate = ceil(min(ACCUMULATED_BATCH, wanted) / fits) if fits < wanted else 1
    why = "DeepLab v3's" if machine.is_gpu else "enough for batch norm's statistics"
    if fits < wanted:
        why = f"memory holds {fits} of {wanted}"
    return Crop(size, fits, accumulate, reason, why)


def rounded(side: int, share: float = 1.0) -> int:
    """Return a share of a side as a multiple of SIDE_STEP: the nearest one, or, of less than the whole, that below."""
    steps = round(side / SIDE_STEP) if share == 1 else int(share * side / SIDE_STEP + 1e-6)
    return max(1, steps) * SIDE_STEP


def choose_stride(stride: int, crop: Size) -> Decision:
    """Return the output stride of a head with an ASPP: its own, or 8 where crops have too few cells at it."""
    cells = min(crop) // stride
    if stride > FINE_STRIDE and cells < FEWEST_CELLS:
        finer = min(crop) // FINE_STRIDE
        return Decision("head.output_stride", FINE_STRIDE, f"crops have {finer} cells, and {cells} at stride {stride}")
    return Decision("head.output_stride", stride, f"the head's own; crops have {cells} cells")


def choose_rates(rates: Sequence[int] | None, stride: int, crop: Size) -> Decision:
    """Return the dilations of an ASPP that crops can train: the largest is 18 of 33 cells, as in DeepLab v3."""
    designed = list(rates or [rate * 16 // stride for rate in (6, 12, 18)])
    cells = min(crop) // stride
    largest = int(LARGEST_RATE * cells)
    if max(designed) <= largest:
        return Decision("head.rates", rates and list(rates), f"crops of {cells} cells see the rates {designed}")
    fitting = sorted({max(1, rate * largest // max(designed)) for rate in designed})
    return Decision("head.rates", fitting, f"crops of {cells} cells at stride {stride}: {designed} would see padding")


def choose_inference(
    data: DataFacts, machine: MachineFacts, step: StepFacts, stride: int, scale: float
) -> list[Decision]:
    """Return sliding windows for images that are far larger than crops, or than memory; enlarged images for objects
    that are narrower than the logits' stride; else whole images.

    `step`: with the plan's crops; `stride`: pixels per cell of the logits; `scale`: the largest of training images.
    """
    ratio = max(image / side for image, side in zip(data.val_largest, step.size, strict=True))
    reason = f"images have up to {ratio:.1f} times the sides of the crops"
    if ratio > LARGEST_RATIO:
        return [Decision("inference", "sliding_window", reason)]
    needed = (step.peak_bytes or 0) / step.pixels * data.val_largest[0] * data.val_largest[1] / 2
    held = MEMORY_SHARE * machine.device_bytes if machine.device_bytes else inf
    if needed > held:
        return [Decision("inference", "sliding_window", f"a whole image needs {needed / 1e9:.1f} GB")]
    narrow = narrower_than(data, stride)
    if narrow and scale >= ENLARGED and needed * ENLARGED**2 <= held:
        return [
            Decision("inference", "tta", f"objects narrower than the logits' stride of {stride} px: {narrow}"),
            Decision("inference.scales", [ENLARGED], "images enlarged by a third: 1 to 2 points on CamVid"),
            Decision("inference.flip", False, "one run of the network"),
        ]
    return [Decision("inference", "whole", reason)]


def largest_scale(data: DataFacts, crop: Size) -> float:
    return min(LARGEST_SCALE, max(1.25, 2 * share_of_image(data, crop)))


def share_of_image(data: DataFacts, crop: Size) -> float:
    return min(side / image for side, image in zip(crop, data.size, strict=True))


def narrower_than(data: DataFacts, stride: int) -> str:
    """Return the classes whose small objects are narrower than the logits' stride, with their widths."""
    return ", ".join([f"{each.name} ({each.width:.1f} px)" for each in data.present if 0 < each.width < stride][:5])
