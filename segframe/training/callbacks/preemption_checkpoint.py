"""Checkpoints between validations: at intervals, and when a signal asks the run to end."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from segframe import distributed
from segframe.data.image_batches import val_loader
from segframe.errors import UserError
from segframe.preemption import SIGNALS, end, end_at_once, signal_name


class PreemptionCheckpoint(Callback):
    """Writes last.ckpt (`path`) every n optimizer steps (500) or minutes ("30min"), or never (null), and on SIGNALS.

    ModelCheckpoint writes it at validations. A signal ends the run after the current step or validation batch; a
    validation that is interrupted is repeated on resuming. Within the validation of the run's last step nothing is
    written: the run resumes from the checkpoint before.
    """

    def __init__(self, path: str, every: int | str | None) -> None:
        self.path = Path(path)
        self.steps, self.seconds = (float("inf"), float("inf")) if every is None else parse_interval(every)
        self._step = 0  # of the last checkpoint
        self._moment = monotonic()
        self._asked: int | None = None  # the signal that this rank has received
        self._ending: int | None = None  # the one that all ranks have agreed to end for
        self._images_left = 0  # validation images after which a rank may have none left

    def on_sanity_check_start(self, trainer: Trainer, module: Any) -> None:
        """Replace Lightning's signal handlers, which would end the run at once."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.on_sanity_check_start(trainer, module)  # there may have been none
        self._step, self._moment = trainer.global_step, monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Call `on_train_epoch_end` after each optimizer step but an epoch's last, after which Lightning does."""
        if not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_train_epoch_end(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Write a checkpoint if it is time, and end the run if asked to."""
        due = trainer.global_step - self._step >= self.steps or monotonic() - self._moment >= self.seconds
        if self._agree(due):
            self._write(trainer, module)
            self._step, self._moment = trainer.global_step, monotonic()
        self._end_if_asked(trainer, module)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        fewest = -distributed.largest(-len(val_loader(trainer).indices))[0]
        self._images_left = 1 if trainer.sanity_checking else fewest

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for _ in range(min(len(batch["index"]), self._images_left)):  # batches of devices differ in length
            self._images_left -= 1
            self._agree(False)
            if self._ending is not None:
                break
        if self._ending is not None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):  # a checkpoint holds average and weights, swapped here
                    callback.on_validation_epoch_end(trainer, module)
        self._end_if_asked(trainer, module)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self._asked == number:
                end_at_once()
            if distributed.rank() == 0:  # not print, which may be what the signal has interrupted
                os.write(2, b"\nCtrl-C: ends after the current step; once more: at once\n")
        self._asked = number

    def _agree(self, due: bool) -> bool:
        """Set `_ending` on all ranks if any has received a signal; return whether rank 0 wants to write a checkpoint.

        A signal received after this call takes effect at the next call: ranks may receive it at different steps.
        """
        asked, write = distributed.largest(self._asked or 0, int(due and distributed.rank() == 0))
        self._ending = asked or None
        return bool(write)

    def _end_if_asked(self, trainer: Trainer, module: Any) -> None:
        if self._ending is None:
            return
        written = not trainer.sanity_checking and self._write(trainer, module)
        name, step, folder = signal_name(self._ending), trainer.global_step, self.path.parent.parent
        with suppress(OSError):  # Ctrl-C ends the reader of `| tee log` too
            saved = "in" if written else "not in"
            print(f"{name}: step {step} is {saved} {self.path}; continue with resume={folder}", flush=True)
        end(self._ending)

    def _write(self, trainer: Trainer, module: Any) -> bool:
        # Lightning would not validate a run that is resumed at its end.
        if trainer.global_step >= module.length.total_steps:
            return False
        trainer.save_checkpoint(self.path)
        return True


def parse_interval(every: int | str) -> tuple[float, float]:
    """The interval in steps and in seconds, one of them infinite."""
    number, minutes = str(every).removesuffix("min").strip(), str(every).endswith("min")
    try:
        value = float(number) if minutes else int(number)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise UserError(f"trainer.checkpoint_every={every}: it is a number of optimizer steps (500) or minutes (30min)")
    return (float("inf"), 60 * value) if minutes else (value, float("inf"))
