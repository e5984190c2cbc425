"""Process and network settings that make training fast, lean or deterministic (configs/trainer)."""

import ctypes
import os
import sys

import torch
from omegaconf import DictConfig

from segframe.errors import UserError
from segframe.models.segmenter import Segmenter

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def set_up_performance(config: DictConfig, segmenter: Segmenter) -> None:
    """Apply determinism, TF32, glibc's allocator, memory format, activation checkpointing and compilation.

    Before a GPU is used. Parameters keep their names and values.
    """
    settings = config.trainer
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time for nothing
    # Of convolutions; not of matrix products, by which losses and classes are computed.
    torch.backends.cudnn.allow_tf32 = settings.tf32
    if settings.keep_freed_memory:
        keep_freed_memory()
    segmenter.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    segmenter.to(memory_format=segmenter.memory_format)
    if settings.activation_checkpointing and settings.compile:
        raise UserError(
            "trainer.compile=true: torch.compile cannot trace activation checkpointing; set "
            "trainer.activation_checkpointing=false, or compile=false"
        )
    if settings.activation_checkpointing:
        if not segmenter.backbone.has_blocks:
            raise UserError(
                "trainer.activation_checkpointing=true: this backbone has no blocks that can be recomputed; choose "
                "another one (resnet, vgg, unet, xception), or false"
            )
        segmenter.backbone.activation_checkpointing = True
    if settings.compile:
        for part in (segmenter.backbone, segmenter.head, segmenter.aux_head):
            if part is not None:
                part.compile()


def keep_freed_memory() -> None:
    """Let glibc reuse freed activations instead of returning them to the kernel, which clears each page anew."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # others (musl) have no such settings
        # Older versions accept at most half a heap's size (32 MiB), and would keep their smallest threshold.
        _ = libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) or libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
