"""How much memory a training step will take, told before the first one.

The step is rehearsed on torch's meta device, whose tensors have sizes but no contents, and what is alive at each moment
is counted. Left out are the workspaces of a GPU's convolutions, what the optimizer and the clipping of gradients hold
while they work, the bands of the losses, what the allocator keeps between the blocks it hands out (with
trainer.keep_freed_memory a quarter of FCN-8s's peak), the GPU's own context, validation, and the loader's processes.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segframe import trouble
from segframe.config import TrainerConfig
from segframe.data.caching import free_memory
from segframe.rehearsal import Held, eagerly, without_contents
from segframe.task import SegmentationTask

log = logging.getLogger(__name__)


class Need(NamedTuple):
    """Bytes of a step at its peak."""

    weights: int
    """Of parameters and buffers."""
    trained: int
    """Of gradients and the optimizer's state."""
    activations: int
    """The rest."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def tell(task: SegmentationTask, shape: tuple[int, int, int], settings: TrainerConfig, device: torch.device) -> None:
    """Logs what a step needs and what is free, and warns where that is less; see `of_step`."""
    try:
        need = of_step(task, shape, settings, device)
    except Exception as error:  # whatever a foreign part does that needs contents: it may train all the same
        log.debug("memory: no estimate (%s: %s)", type(error).__name__, error)
        return
    free = free_on(device)
    log.info(
        "memory: about %s GiB for a step%s (weights, gradients and optimizer %s, activations %s)%s",
        *(gibibytes(need.total), " without trainer.compile" if settings.compile else ""),
        *(gibibytes(need.weights + need.trained), gibibytes(need.activations)),
        "" if free is None else f"; {gibibytes(free)} GiB free on {device}",
    )
    # The weights are in the machine's memory by now.
    missing = need.total - (need.weights if device.type == "cpu" else 0)
    if free is not None and missing > free:
        log.warning("memory: a step may need more than is free: %s", trouble.TO_TRAIN)


def free_on(device: torch.device) -> int | None:
    """The bytes that a process can get there; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory() if device.type == "cpu" else None


def gibibytes(size: int) -> str:
    """In GiB."""
    return f"{size / 2**30:.1f}"


def of_step(task: SegmentationTask, shape: tuple[int, int, int], settings: TrainerConfig, device: torch.device) -> Need:
    """The memory of a step with masks (N, H, W) of this shape; on a device that need not be here."""
    step, copies = _Step(task).train(), {}
    for name, tensor in [*step.named_parameters(), *step.named_buffers()]:
        copies[name] = without_contents(tensor, settings.precision)
    trained = [copy for copy in copies.values() if copy.requires_grad]
    held = Held(copies.values(), 2 if device.type == "cpu" else 0)
    with eagerly(settings.compile), held:
        if settings.accumulate_grad_batches > 1:  # those of the batches before are there from the start
            for copy in trained:
                copy.grad = torch.empty_like(copy)
        images = torch.empty(*shape, 3, dtype=torch.uint8, device="meta").permute(0, 3, 1, 2)
        mask = torch.empty(shape, dtype=torch.uint8, device="meta")
        torch.func.functional_call(step, copies, (images, mask))
    gradients = sum(copy.nbytes for copy in trained)
    state = round(gradients * state_per_weight(task.make_optimizer))
    return Need(sum(copy.nbytes for copy in copies.values()), gradients + state, max(0, held.peak - gradients))


def state_per_weight(make_optimizer: Callable[..., Optimizer]) -> float:
    """How many numbers an optimizer keeps for each parameter: by a step of a small one."""
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    optimizer = make_optimizer([weight])
    optimizer.step()
    kept = (value for value in optimizer.state[weight].values() if isinstance(value, Tensor) and value.numel() > 1)
    return sum(value.nbytes for value in kept) / weight.nbytes


class _Step(nn.Module):
    # Forward and backward, as SegmentationTask and Lightning make them; both in one call, since what is computed again
    # in the backward pass reads the weights too.
    def __init__(self, task: SegmentationTask) -> None:
        super().__init__()
        self.segmenter = task.segmenter
        self.loss = task.loss
        self.output_weights = task.output_weights

    def forward(self, images: Tensor, mask: Tensor) -> None:
        self._total(images, mask).backward()

    def _total(self, images: Tensor, mask: Tensor) -> Tensor:
        outputs = self.segmenter.outputs(images)
        losses = [self.output_weights[name] * self.loss(logits, mask) for name, logits in outputs.items()]
        return torch.stack(losses).sum()
