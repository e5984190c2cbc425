"""Prepare a network and its process to compute as in training: device, memory format, precision, allocator."""

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

import torch

from segframe.errors import UserError
from segframe.models.segmenter import Segmenter

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "64-true": None}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def prepare(
    segmenter: Segmenter,
    trained_with: Mapping[str, Any],
    device: torch.device | None = None,
    precision: str | None = None,
) -> Segmenter:
    """Put a network on a device, in evaluation mode, and let it compute as in the validations of its training.

    `trained_with`: the run's config, whose trainer.channels_last, precision, tf32 and keep_freed_memory apply; None for
    `precision` is the run's too.
    """
    trainer = trained_with.get("trainer")
    settings = trainer if isinstance(trainer, Mapping) else {}  # a checkpoint may hold anything
    segmenter.autocast_dtype = autocast_dtype(precision, settings)
    if (precision or settings.get("precision")) == "64-true":
        segmenter.double()
    segmenter.memory_format = torch.channels_last if settings.get("channels_last") else torch.contiguous_format
    # Of convolutions; not of matrix products, by which losses and classes are computed.
    torch.backends.cudnn.allow_tf32 = bool(settings.get("tf32"))
    torch.backends.cudnn.benchmark = False  # images have many sizes
    if settings.get("keep_freed_memory"):
        keep_freed_memory()
    return segmenter.to(memory_format=segmenter.memory_format).to(device).eval()


def autocast_dtype(precision: str | None, trainer: Mapping[str, Any]) -> torch.dtype | None:
    """Return the dtype of autocast for a Lightning precision, by default the training's; None for float32."""
    if precision not in (None, *PRECISIONS):
        raise UserError(f"precision={precision}: unknown; choose null (as in training), {', '.join(PRECISIONS)}")
    return PRECISIONS.get(str(precision or trainer.get("precision")))


def keep_freed_memory() -> None:
    """Let glibc reuse freed activations instead of returning them to the kernel, which clears each page anew."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # others (musl) have no such settings
        # Older versions accept at most half a heap's size (32 MiB), and would keep their smallest threshold.
        _ = libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) or libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
