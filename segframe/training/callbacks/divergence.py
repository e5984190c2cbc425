"""End a run at the first loss that is NaN or infinite, and save what it was computed from."""

from collections import deque
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from segframe import distributed
from segframe.errors import UserError, first_names
from segframe.files import atomic_write
from segframe.models.ops.host_copy import HostCopy
from segframe.models.weights import checkpoint
from segframe.training.callbacks.training_curves import learning_rates

ADVICE = "lower optimizer.lr, set scheduler.warmup_steps or trainer.gradient_clip_val, or trainer.precision=32-true"
FILE = "diverged.pt"  # in a run's folder
MAX_NAMES = 4  # of the batch's images in the message
LAG = 2  # steps after which the loss is read on several GPUs


class Step(NamedTuple):
    """Inputs of a training step, beside the weights; `seed` is that of dropout in the forward pass."""

    number: int
    batch: dict[str, Any]
    rates: dict[str, float]
    seed: int


class DivergenceStop(Callback):
    """Ends a run at the first loss that is not finite, without waiting for a GPU in each step.

    A GPU's losses arrive a step or two late. Meanwhile the device itself protects the weights: `_found_inf` becomes 1
    there, upon which a fused optimizer leaves them as they are.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Step, HostCopy, Tensor]] = deque()
        self._step: Step | None = None
        self._found_inf: Tensor | None = None
        self._one = torch.ones(())

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        optimizer = trainer.optimizers[0]
        if module.device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._found_inf, self._one = torch.zeros((), device=module.device), torch.ones((), device=module.device)
            optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]  # as torch.amp.GradScaler sets it

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        rates = learning_rates(trainer.optimizers[0])
        self._step = Step(trainer.global_step + 1, batch, rates, module.step_seed(batch_idx))

    def on_before_backward(self, trainer: Trainer, module: Any, loss: Tensor) -> None:
        assert self._step is not None
        # That of all devices decides, so that they end at the same step.
        self._pending.append((self._step, HostCopy(module.batch_loss), loss.detach()))
        self.check(trainer, module)
        if self._found_inf is not None:
            # torch.amp.GradScaler's kernel, which sets the flag and multiplies by 1; public operators take seven.
            torch._amp_foreach_non_finite_check_and_unscale_([module.batch_loss], self._found_inf, self._one)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        self.check(trainer, module, wait=True)

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self.check(trainer, module, wait=True)

    def is_due(self, device: torch.device) -> bool:
        """Whether to read the oldest pending loss: once it has arrived or, with several GPUs, LAG steps after its own.

        A loss arrives at different times on each of several GPUs, but all processes must end at the same step: one that
        ended earlier would wait for the others, and they for it in the next step's collectives.
        """
        if device.type == "cuda" and distributed.world() > 1:
            return len(self._pending) > LAG
        return self._pending[0][1].is_ready()

    def check(self, trainer: Trainer, module: Any, wait: bool = False) -> None:
        """UserError if a loss that has arrived is not finite; `wait`: for all of them, before weights are used."""
        while self._pending and (wait or self.is_due(module.device)):
            step, copy, own_loss = self._pending.popleft()
            loss = copy.wait().item()
            if not isfinite(loss):
                own = not isfinite(own_loss.item())
                first = distributed.gather(own).index(True) if distributed.world() > 1 else 0
                is_first = distributed.rank() == first
                error = diverged(Path(trainer.default_root_dir) / FILE, module, step, loss) if is_first else None
                raise next(error for error in distributed.gather(error) if error is not None)


def diverged(path: Path, module: Any, step: Step, loss: float) -> UserError:
    """The error of a step whose loss is not finite; saves the batch and the network for replay_divergence.

    The file, read by torch.load, holds a checkpoint's description of its network, the state dict before the step
    (running statistics after it), "batch", "step", "loss", "learning_rates" and "seed".
    """
    state = {f"segmenter.{name}": tensor for name, tensor in module.segmenter.state_dict().items()}
    content = {checkpoint.KEY: module.description, "state_dict": state, "batch": step.batch, "step": step.number}
    content |= {"loss": loss, "learning_rates": step.rates, "seed": step.seed}
    with atomic_write(path) as file:
        torch.save(content, file)
    parameters = module.segmenter.named_parameters()
    broken = next((name for name, parameter in parameters if not parameter.isfinite().all()), "")
    since = f"; {broken} is not finite since the step before" if broken else ""
    names = first_names(step.batch["name"], MAX_NAMES)
    rates = ", ".join(f"{part} {rate:g}" for part, rate in step.rates.items())
    return UserError(
        f"the loss of step {step.number} is {loss}{since} (images {names}; learning rate {rates}): "
        f"{ADVICE}; python scripts/replay.py checkpoint={path} shows what it was computed from"
    )
