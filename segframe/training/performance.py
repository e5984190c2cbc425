"""What makes a run fast or lean beside its parts, as configs/trainer/ sets it."""

import ctypes
import os
import sys

import torch

from segframe.config.schema import TrainerConfig
from segframe.errors import UserError
from segframe.models.segmenter import Segmenter

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def resolve(settings: TrainerConfig) -> None:
    """Replaces `auto` by what it stands for on this machine, so that a run's config.yaml tells."""
    if settings.precision == "auto":
        settings.precision = "bf16-mixed" if computes_in_bfloat16(settings.accelerator) else "32-true"
    if settings.precision == "16-mixed" and settings.gradient_clip_val:
        settings.fused_optimizer = False  # it would undo the loss's scale only after the gradients are clipped


def set_deterministic(wanted: bool) -> None:
    """Has PyTorch compute equal bits in equal runs on one machine, and refuse what cannot; before a GPU is used."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add up in any order
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time, and nobody reads it


def computes_in_bfloat16(accelerator: str) -> bool:
    """Whether the device that Lightning will choose multiplies in bfloat16, rather than imitates it."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return False
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # before torch 2.10: float32
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def apply(settings: TrainerConfig, segmenter: Segmenter) -> None:
    """Prepares this process and a network for training; parameters keep their names and values."""
    if settings.keep_freed_memory:
        keep_freed_memory()
    # Of convolutions; not of matrix products, by which losses and classes are taken.
    torch.backends.cudnn.allow_tf32 = settings.tf32
    segmenter.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    segmenter.to(memory_format=segmenter.memory_format)
    if settings.activation_checkpointing:
        if not segmenter.backbone.has_blocks:
            raise UserError(
                "trainer.activation_checkpointing=true: this backbone is not made of blocks that can be computed "
                "again; choose another one (resnet, vgg, unet, xception), or false"
            )
        segmenter.backbone.activation_checkpointing = True
    if settings.compile:
        if settings.activation_checkpointing:
            raise UserError(
                "trainer.compile=true and trainer.activation_checkpointing=true exclude each other: torch.compile "
                "cannot trace what is computed again; choose one of them"
            )
        for part in (segmenter.backbone, segmenter.head, segmenter.aux_head):
            if part is not None:
                part.compile()


def keep_freed_memory() -> None:
    """Lets glibc reuse freed activations instead of handing them to the kernel, which clears each page anew."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # others (musl) know no such settings
        # Older ones take no more than half a heap's size (32 MiB), and would keep their smallest threshold.
        _ = libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) or libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
