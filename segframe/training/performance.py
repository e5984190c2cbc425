"""Process and network settings that make training fast, lean or deterministic (configs/trainer)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from omegaconf import DictConfig

from segframe import distributed
from segframe.errors import UserError
from segframe.inference.prepare import prepare
from segframe.models.ops.sync_batch_norm import synchronize
from segframe.models.segmenter import Segmenter


def set_up_performance(config: DictConfig, segmenter: Segmenter) -> None:
    """Apply determinism, cuDNN's settings, allocator, memory format, synchronized norms, checkpointing, compilation.

    Before a GPU is used. Parameters keep their names and values.
    """
    settings = config.trainer
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time for nothing
    training = segmenter.training
    prepare(segmenter, config).train(training)
    # After `prepare`, which switches it off. For images of many sizes, each would be measured.
    torch.backends.cudnn.benchmark = not config.deterministic and "crop_size" in config.transforms
    if settings.sync_batch_norm is True and distributed.world() > 1:
        synchronize(segmenter, distributed.uses_gpu(settings.accelerator))
    if settings.activation_checkpointing and settings.compile is True:
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
    if settings.compile is True:
        for part in (segmenter.backbone, segmenter.head, segmenter.aux_head):
            if part is not None:
                part.compile(dynamic=False)  # training batches are of one size


@contextmanager
def for_any_size(compiled: bool) -> Iterator[None]:
    """A context for images of many sizes: a compiled network runs as if it were not, and cuDNN measures no kernels."""
    measures = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = measures
