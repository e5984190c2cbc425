"""A loss that is no number any more: the run ends there, and what it was computed from is kept for replay."""

from collections import deque
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from segframe.errors import UserError
from segframe.files import atomic_write
from segframe.models.weights import checkpoint
from segframe.training.callbacks.training_curves import learning_rates

CURE = "lower optimizer.lr, set scheduler.warmup_steps or trainer.gradient_clip_val, or trainer.precision=32-true"
FILE = "diverged.pt"  # in a run's folder
SHOWN = 4  # of a batch's names


class Answer:
    """A scalar that a device computes, to be read without waiting until it is here."""

    def __init__(self, scalar: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if scalar.is_cuda:
            self._scalar = torch.empty((), dtype=scalar.dtype, pin_memory=True).copy_(scalar, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._scalar = scalar

    def is_here(self) -> bool:
        """Whether reading it costs no time."""
        return self._event is None or self._event.query()

    def read(self) -> float:
        """The number; waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        return self._scalar.item()


class Step(NamedTuple):
    """What a loss was computed from, beside the weights."""

    number: int
    batch: dict[str, Any]
    rates: dict[str, float]
    seed: int
    """Of the generators before the forward pass (dropout)."""


class LossWatch:
    """Ends a run at the first loss that is not finite, without waiting for a GPU to tell.

    A GPU's answers come a step or two late. So that the weights are still those of that step then, the device itself
    keeps them: `held` becomes 1 there, with which a fused optimizer changes nothing.
    """

    def __init__(self) -> None:
        self._asked: deque[tuple[Step, Answer]] = deque()
        self.held: Tensor | None = None

    def hold(self, optimizer: Optimizer, device: torch.device) -> None:
        """Lets a GPU's fused optimizer stop by itself; others go on until the answer is here."""
        if device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False):
            self.held = torch.zeros((), device=device)
            optimizer.found_inf = self.held  # type: ignore[attr-defined]  # as torch.amp.GradScaler sets it

    def ask(self, module: Any, step: Step, loss: Tensor) -> None:
        """Notes a step; UserError if this loss, or one before, is known not to be finite."""
        self._asked.append((step, Answer(loss)))
        self.check(module)
        if self.held is not None:
            torch.maximum(self.held, (~loss.isfinite()).float(), out=self.held)

    def check(self, module: Any, wait: bool = False) -> None:
        """UserError if a loss is not finite; `wait`: for all answers, as before weights are written."""
        while self._asked and (wait or self._asked[0][1].is_here()):
            step, answer = self._asked.popleft()
            loss = answer.read()
            if not isfinite(loss):
                raise diverged(module, step, loss)


def diverged(module: Any, step: Step, loss: float) -> UserError:
    """The error of a step whose loss is not finite; keeps batch and network in diverged.pt, as torch.load reads it.

    The file holds what a checkpoint says of its network, its state dict before the step (running statistics after it),
    and "batch", "step", "loss", "learning_rates" and "seed"; scripts/replay.py reads it.
    """
    path = Path(module.trainer.default_root_dir) / FILE
    state = {f"segmenter.{name}": tensor for name, tensor in module.segmenter.state_dict().items()}
    content = {
        checkpoint.KEY: module.metadata.as_dict(),
        "state_dict": state,
        "batch": step.batch,
        "step": step.number,
        "loss": loss,
        "learning_rates": step.rates,
        "seed": step.seed,
    }
    with atomic_write(path) as file:
        torch.save(content, file)
    names = step.batch["name"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    broken = next(
        (name for name, parameter in module.segmenter.named_parameters() if not parameter.isfinite().all()), ""
    )
    since = f"; {broken} is not finite since the step before" if broken else ""
    told = ", ".join(f"{part} {rate:g}" for part, rate in step.rates.items())
    return UserError(
        f"the loss of step {step.number} is {loss}{since} (images {', '.join(names[:SHOWN])}{more}; learning rate "
        f"{told}): {CURE}; python scripts/replay.py checkpoint={path} shows what it was computed from"
    )


def step_of(module: Any, batch: dict[str, Any], seed: int) -> Step:
    """The step at hand."""
    return Step(module.global_step + 1, batch, learning_rates(module.trainer.optimizers[0]), seed)
