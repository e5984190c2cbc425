"""The last checkpoint between validations: from time to time, and when the process is asked to end."""

import os
import signal
import threading
from pathlib import Path
from time import monotonic
from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.errors import UserError
from segframe.preemption import SIGNALS, end, end_at_once, named


class PreemptionCheckpoint(Callback):
    """Writes `path` every so many optimizer steps (500) or minutes ("30min"), null: never; and on SIGNALS, then exits.

    ModelCheckpoint writes it at validations. A signal is obeyed once the step or the validation image at hand is done,
    also within a validation, which then is made anew; only the last validation's step is not written: the run goes on
    from the checkpoint before.
    """

    def __init__(self, path: str, every: int | str | None) -> None:
        self.path = Path(path)
        self.steps, self.seconds = (float("inf"), float("inf")) if every is None else parse(every)
        self._step = 0  # of the last writing
        self._moment = monotonic()
        self._asked: int | None = None

    def on_sanity_check_start(self, trainer: Trainer, module: Any) -> None:
        """Listens for signals in place of Lightning, which would end at once; it puts its own handlers back."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Counts from here."""
        self.on_sanity_check_start(trainer, module)  # there may have been none
        self._step, self._moment = trainer.global_step, monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes if it is time; not while gradients accumulate."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step - self._step >= self.steps or monotonic() - self._moment >= self.seconds:
            self._write(trainer, module)
            self._step, self._moment = trainer.global_step, monotonic()
        self._obey(trainer, module)

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Ends within a validation."""
        self._obey(trainer, module)

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self._asked == number:
                end_at_once()
            os.write(
                2, b"\nCtrl-C: ends after the current step; once more: at once\n"
            )  # print may be what was interrupted
        self._asked = number

    def _obey(self, trainer: Trainer, module: Any) -> None:
        if self._asked is None:
            return
        written = not trainer.sanity_checking and self._write(trainer, module)
        name, step, folder = named(self._asked), trainer.global_step, self.path.parent.parent
        print(
            f"{name}: step {step} is {'in' if written else 'not in'} {self.path}; go on with resume={folder}",
            flush=True,
        )
        end(self._asked)

    def _write(self, trainer: Trainer, module: Any) -> bool:
        # Lightning would not validate a run that is resumed at its end.
        if trainer.global_step >= module.length.total_steps:
            return False
        trainer.save_checkpoint(self.path)
        return True


def parse(every: int | str) -> tuple[float, float]:
    """So many steps or so many seconds, the other infinite; UserError for anything else."""
    number, minutes = str(every).removesuffix("min").strip(), str(every).endswith("min")
    try:
        value = float(number) if minutes else int(number)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise UserError(f"trainer.checkpoint_every={every}: give a number of optimizer steps (500) or minutes (30min)")
    return (float("inf"), 60 * value) if minutes else (value, float("inf"))
