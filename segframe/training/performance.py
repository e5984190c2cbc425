"""Process and network settings that make training fast, lean or deterministic (configs/trainer)."""

import os

import torch
from omegaconf import DictConfig

from segframe import distributed
from segframe.errors import UserError
from segframe.inference.prepare import prepare
from segframe.models.ops.sync_batch_norm import synchronize
from segframe.models.segmenter import Segmenter


def set_up_performance(config: DictConfig, segmenter: Segmenter) -> None:
    """Apply determinism, TF32, allocator, memory format, synchronized norms, activation checkpointing, compilation.

    Before a GPU is used. Parameters keep their names and values.
    """
    settings = config.trainer
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time for nothing
    training = segmenter.training
    if settings.sync_batch_norm is True and distributed.world() > 1:
        synchronize(segmenter, distributed.uses_gpu(settings.accelerator))
    prepare(segmenter, config).train(training)
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
