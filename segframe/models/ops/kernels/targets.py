# mypy: disable-error-code="no-untyped-def,assignment"
"""Target probabilities of the cross-entropy kernels: class weights, label smoothing, void."""

import triton
import triton.language as tl

LABELS = tl.constexpr(256)
"""Masks are bytes."""


@triton.jit
def mean_weight_of(weights_ptr, classes, smoothing: tl.constexpr):
    """Return the mean of the class weights if smoothing needs it, else 1."""
    mean = 1.0
    if smoothing > 0 and weights_ptr is not None:
        kind = tl.arange(0, LABELS)
        mean = tl.sum(tl.load(weights_ptr + kind, mask=kind < classes, other=0.0), 0) / classes
    return mean


@triton.jit
def is_valid(label, inside, classes):
    return inside & (label >= 0) & (label < classes)


@triton.jit
def target_of(label, valid, weights_ptr, mean_weight, smoothing: tl.constexpr):
    """Return pixels' weights and the sums of both parts of their targets: the true class's, the uniform; 0 for void."""
    weight = valid.to(tl.float32)
    uniform = weight * (smoothing * mean_weight)
    if weights_ptr is not None:
        weight = tl.load(weights_ptr + label, mask=valid, other=0.0)
    return weight, weight * (1.0 - smoothing), uniform


@triton.jit
def uniform_target(weights_ptr, kind, classes, smoothing: tl.constexpr):
    """Return what smoothing adds to the target of a class at pixels that are not void: its weight * smoothing / C."""
    target = smoothing / classes
    if weights_ptr is not None:
        target *= tl.load(weights_ptr + kind, mask=kind < classes, other=0.0)
    return target
