"""The parity check: an exported file gives the results of the network that it was made from, at every size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe.errors import UserError

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""Images (N, C, H, W) -> classes (N, H, W) and, for the check of float32, scores (N, classes, H, W)."""

SIZES = ((1, 33, 47), (1, 32, 32), (1, 65, 129), (3, 40, 72), (2, 96, 64))
"""Batch, height and width: odd at every pooling, small, odd at the strides, another batch, another format; none is the
traced one, whose values a graph may have kept."""
MIN_AGREEMENT = 0.9999
MAX_DIFFERENCE = 1e-3
"""Share of the range of the scores."""
JITTER = 255e-6
"""Noise by which a network's own result may change: a few roundings of a float32 in 0 ... 255."""
JITTERED_RUNS = 16
MAX_TIES = 0.5
"""Share of all pixels of a check that may be ties."""


class Parity(NamedTuple):
    """Agreement of two runs on images of one size, over the pixels that are no ties."""

    size: tuple[int, int, int]
    agreement: float
    """Share of the pixels with equal classes."""
    difference: float
    """Largest absolute difference of the scores, as a share of their range."""
    ties: int
    """Pixels whose result is undecided in the network itself, by rounding (two equal maxima of a pooling)."""

    @property
    def passed(self) -> bool:
        return self.agreement >= MIN_AGREEMENT and self.difference <= MAX_DIFFERENCE


def sample_images(size: tuple[int, int, int], channels: int, dtype: torch.dtype) -> Tensor:
    """Return blobs with noise (N, C, H, W), in 0 ... 255, the same for the same size."""
    batch, height, width = size
    generator = torch.Generator().manual_seed(height * width)
    blobs = torch.rand(batch, channels, 6, 8, generator=generator) * 255
    noise = torch.randn(batch, channels, height, width, generator=generator) * 20
    return (F.interpolate(blobs, (height, width), mode="bicubic") + noise).clamp(0, 255).to(dtype)


def check_parity(network: Run, exported: Run, channels: int, dtype: torch.dtype, setting: str) -> list[Parity]:
    """Return the agreement at each of SIZES that the network itself can run; UserError where it is too low."""
    results = []
    for size in SIZES:
        images = sample_images(size, channels, dtype)
        try:
            expected = network(images)
        except RuntimeError:
            continue  # too small for this network
        where = "{} x {} x {}".format(*size)
        if not varies(expected[1]):
            raise UserError(
                f"{setting}: the network gives the same scores for every pixel (at {where}), so nothing can be "
                "compared: is it untrained? Choose a trained checkpoint"
            )
        try:
            found = exported(images)
        except Exception as error:  # a runtime's own kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{setting}: the exported file fails at {where} (images x height x width), nothing was written: "
                f"{reason}"
            ) from error
        result = compare(network, images, expected, found, size)
        if not result.passed:
            raise UserError(
                f"{setting}: the exported file differs from the network at {where} (images x height x width): "
                f"{result.agreement:.5f} of the classes agree (at least {MIN_AGREEMENT}), the scores differ by "
                f"{result.difference:.1e} of their range (at most {MAX_DIFFERENCE}); nothing was written"
            )
        results.append(result)
    check_extent(results, setting)
    return results


def check_extent(results: Sequence[Parity], setting: str) -> None:
    """UserError where too little has been compared."""
    pixels = sum(batch * height * width for (batch, height, width), *_ in results)
    ties = sum(result.ties for result in results)
    if len(results) < 3 or ties > MAX_TIES * pixels:
        raise UserError(
            f"{setting}: too little can be compared: the network runs at {len(results)} of {len(SIZES)} sizes, and "
            f"rounding decides {ties} of {pixels} pixels; train the network further, or choose another"
        )


def varies(scores: Tensor) -> bool:
    """Whether scores (N, classes, H, W) differ between pixels, and are finite."""
    return bool(scores.isfinite().all() and (scores.amax((0, 2, 3)) > scores.amin((0, 2, 3))).any())


def compare(
    network: Run, images: Tensor, expected: Sequence[Tensor], found: Sequence[Tensor], size: tuple[int, int, int]
) -> Parity:
    """Return the agreement of a found result with the expected one; ties are looked for only where it is too low."""
    if found[1].shape != expected[1].shape:
        return Parity(size, 0.0, 1.0, 0)
    result = measure(expected, found, torch.zeros_like(expected[0], dtype=torch.bool), size)
    if result.passed:
        return result
    return measure(expected, found, find_ties(network, images, expected), size)


def measure(expected: Sequence[Tensor], found: Sequence[Tensor], ties: Tensor, size: tuple[int, int, int]) -> Parity:
    """Return the agreement over the pixels that are no `ties` (N, H, W); NaN is the largest difference."""
    scores = expected[1]
    distance = (found[1] - scores).abs().amax(1).nan_to_num(nan=float("inf")) / (scores.max() - scores.min())
    sure = ~ties
    if not sure.any():
        return Parity(size, 1.0, 0.0, int(ties.sum()))
    agreement = (found[0] == expected[0])[sure].double().mean().item()
    return Parity(size, agreement, distance[sure].max().item(), int(ties.sum()))


def find_ties(network: Run, images: Tensor, expected: Sequence[Tensor]) -> Tensor:
    """Return the pixels (N, H, W) whose result in the network itself changes with images that differ by rounding."""
    generator = torch.Generator().manual_seed(0)
    ties = torch.zeros_like(expected[0], dtype=torch.bool)
    limit = MAX_DIFFERENCE * (expected[1].max() - expected[1].min())
    for _ in range(JITTERED_RUNS):
        noise = torch.randn(images.shape, generator=generator) * JITTER
        classes, scores = network(images.float() + noise)
        ties |= (classes != expected[0]) | ((scores - expected[1]).abs().amax(1) > limit)
    return ties
