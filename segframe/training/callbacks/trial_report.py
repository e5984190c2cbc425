"""A run as the trial of a search: it reports its validations, and ends early where they are bad."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.config.instantiate import instantiate
from segframe.training.study import LEASE, NAME, Heartbeat, TrialAddress, open_journal, trial_address


class TrialReport(Callback):
    """Reports the monitored metric after each validation, numbered from 1, and stops the run if the pruner says so."""

    def __init__(self, address: TrialAddress) -> None:
        from optuna import load_study  # an optional dependency

        folder = Path(address.study)
        self.pruner = instantiate(address.pruner, "pruner")
        self.storage = open_journal(folder)
        self.study = load_study(study_name=NAME, storage=self.storage, pruner=self.pruner)
        study_id = self.storage.get_study_id_from_name(NAME)
        self.id = self.storage.get_trial_id_from_study_id_trial_number(study_id, address.number)
        self.heartbeat = Heartbeat(folder / str(address.number) / LEASE)
        self.pruned: int | None = None
        """The validation after which the run is stopped."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.heartbeat.beat()

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.on_train_batch_end(trainer)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Report; the last validation ends the run anyway."""
        if trainer.sanity_checking:
            return
        validation = -(-trainer.global_step // module.length.val_every_n_steps)
        prune = False
        if trainer.is_global_zero:
            prune = self.report(validation, module.metrics[module.config.monitor])
        prune = trainer.strategy.broadcast(prune) and trainer.global_step < module.length.total_steps
        if prune:
            print(f"pruned after validation {validation}", flush=True)
            self.pruned, trainer.should_stop = validation, True

    def report(self, validation: int, value: float) -> bool:
        """Write a value into the study's journal; whether the pruner would end the trial."""
        if self.storage.get_trial(self.id).state.is_finished():
            return False  # the study has ended without it
        self.storage.set_trial_intermediate_value(self.id, validation, value)
        return bool(self.pruner.prune(self.study, self.storage.get_trial(self.id)))


def trial_reports() -> list[Callback]:
    """The callbacks that a trial of a search adds to a run: TrialReport, or none where the run is no trial."""
    address = trial_address()
    return [TrialReport(address)] if address else []


def pruned_after(trainer: Trainer) -> int | None:
    """The validation after which the study's pruner has stopped the run."""
    found = [callback.pruned for callback in trainer.callbacks if isinstance(callback, TrialReport)]  # type: ignore[attr-defined]
    return found[0] if found else None
