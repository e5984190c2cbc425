"""Exact resuming: a run's progress, loggers, learning rates and early stopping after a checkpoint is loaded."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from segframe.models.weights.checkpoint import KEY
from segframe.training.loggers.base import discard_after
from segframe.training.resume import apply_group_settings, group_settings

log = logging.getLogger(__name__)


class ResumeState(Callback):
    """Stops a run after its last step, and lets a resumed one go on exactly where its checkpoint was written.

    A checkpoint that is written before or within the validation of its step has that validation made anew. `on_start`
    is called when training begins: a checkpoint has been accepted then, and there are steps to make.
    """

    def __init__(self, on_start: Callable[[Trainer], None]) -> None:
        self._on_start = on_start
        self._validated_at = 0  # the step of the last validation
        self._scores: dict[str, Tensor] = {}  # of the last validation before the checkpoint
        self._settings: list[dict[str, Any]] = []  # of the optimizer's groups, by the config

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        self._settings = group_settings(trainer.optimizers[0])
        if trainer.ckpt_path is None:
            discard_after(-1, trainer.loggers)  # of a run that was killed before its first checkpoint

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Apply the config's optimizer settings; stop again a run that had stopped early, unless its patience grew."""
        apply_group_settings(trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler, self._settings)
        if trainer.global_step >= module.length.total_steps:
            trainer.should_stop = True
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and had_stopped(callback, self._scores):
                trainer.should_stop = True
                log.info(
                    "resuming at step %d: the run had stopped early; a larger patience continues", trainer.global_step
                )
        if not trainer.should_stop:
            self._on_start(trainer)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop after the last step: Lightning then validates, wherever that step falls."""
        if trainer.global_step >= module.length.total_steps:
            trainer.should_stop = True

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._validated_at = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            logger.save()  # what was logged up to here must not be lost while the steps are kept
        step = checkpoint["global_step"]
        pending = step % module.length.val_every_n_steps == 0 and step != self._validated_at
        checkpoint.setdefault(KEY, {})["validates"] = pending

    def on_load_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        step, total, pending = checkpoint["global_step"], module.length.total_steps, checkpoint[KEY].get("validates")
        self._validated_at = 0 if pending else step
        discard_after(step - bool(pending), trainer.loggers)
        if step >= total:
            why = "the run had ended, trainer.max_steps=... makes it longer"
            log.info("resuming at step %d of %d (%s): %s", step, total, trainer.ckpt_path, why)
        states = checkpoint["callbacks"]
        self._scores = last_scores(states)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = states.get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state and "dirpath" in state:
                move_checkpoints(state, str(callback.dirpath))
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience
        has_validation = step >= total or step % module.length.val_every_n_steps == 0
        sizes = module.length.steps_per_epoch, trainer.accumulate_grad_batches
        set_progress(checkpoint["loops"]["fit_loop"], min(step, total), *sizes, has_validation, bool(pending))


def set_progress(
    loop: dict[str, Any], step: int, epoch_steps: int, step_batches: int, has_validation: bool, validation_pending: bool
) -> None:
    """Set the progress of Lightning's loops, as a checkpoint stores it, to so many finished steps.

    Lightning counts batches, whose number per step and per epoch may have changed; there is no public way to set them.
    `has_validation`: whether the step ends with a validation; `validation_pending`: whether that one is still to run.
    The last batch of a step without one is not completed: so Lightning stores it, and completes it when it resumes.
    """
    epoch, steps = divmod(step, epoch_steps)
    current = loop["epoch_progress"]["current"]
    if epoch and not steps and current["processed"] == current["completed"]:  # the epoch's end is still to come
        epoch, steps = epoch - 1, epoch_steps
    loop["epoch_progress"] |= counts(epoch + (steps > 0), epoch, epoch)
    open_batches = int(steps > 0 and not has_validation)
    batches, total = (counts(n, n, n - open_batches)["total"] for n in (steps * step_batches, step * step_batches))
    progress = {"current": batches, "total": total, "is_last_batch": steps == epoch_steps}
    loop["epoch_loop.batch_progress"] |= progress
    if validation_pending:  # as if only its first image had been begun
        loop["epoch_loop.val_loop.batch_progress"] |= counts(1, 0, 0)


def counts(started: int, processed: int, completed: int) -> dict[str, dict[str, int]]:
    """Lightning's progress of so many epochs or batches."""
    count = {"ready": started, "started": started, "processed": processed, "completed": completed}
    return {"total": count, "current": dict(count)}


def last_scores(states: dict[str, Any]) -> dict[str, Tensor]:
    """The metrics of the last validation that ModelCheckpoint's stored states remember, by name."""
    found = [state for state in states.values() if isinstance(state, dict) and isinstance(state.get("monitor"), str)]
    return {state["monitor"]: state["current_score"] for state in found if state.get("current_score") is not None}


def had_stopped(callback: EarlyStopping, scores: dict[str, Tensor]) -> bool:
    """Whether a run had stopped early before it was resumed, and would stop again by its config."""
    if callback.wait_count >= callback.patience:
        return True
    score, better = scores.get(callback.monitor), callback.monitor_op
    if score is None:
        return False
    reached, diverged = callback.stopping_threshold, callback.divergence_threshold
    return bool(
        (reached is not None and better(score, reached)) or (diverged is not None and better(-score, -diverged))
    )


def move_checkpoints(state: dict[str, Any], folder: str) -> None:
    """Let a ModelCheckpoint's state name its files in `folder`: with another one it would forget its best score.

    It deletes the files that it names, so names of anything but checkpoints are dropped.
    """

    def moved(path: Any) -> str:
        name = Path(path).name if isinstance(path, str) else ""
        return str(Path(folder) / name) if name.endswith(".ckpt") else ""

    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state[key])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items() if moved(path)}
    state["dirpath"] = folder
