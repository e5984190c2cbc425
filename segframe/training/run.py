"""One training run, from its composed config to its result."""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from pytorch_lightning import Trainer, seed_everything

from segframe.config.trust import report_foreign_parts
from segframe.config.validate import validate_config
from segframe.data.build import build_data_module, build_datasets
from segframe.distributed import first_of_machine_first, on_rank_zero
from segframe.models.build import build_segmenter, load_initial_weights
from segframe.models.check_parts import check_parts, has_own_parts
from segframe.models.weights.third_party import read_weights
from segframe.training.callbacks.trial_report import pruned_after
from segframe.training.checkpoint_io import find_resume_checkpoint
from segframe.training.finish_config import finish_config
from segframe.training.module import SegmentationModule
from segframe.training.performance import set_up_performance
from segframe.training.run_dir import find_run_dir, lock_run_dir, write_result, write_start
from segframe.training.start_report import print_start
from segframe.training.study import PRUNED
from segframe.training.trainer import build_trainer, warn_of_long_averages
from segframe.training.untrained_taps import warn_of_untrained_taps


class TrainingResult(NamedTuple):
    """The result of a run."""

    folder: Path
    """The run's folder, with its checkpoints: what `segframe.load` takes."""
    best: float
    """The best value of the monitored metric; NaN without a validation."""
    metrics: dict[str, float]
    """The last values of what was logged: `val/miou`, `val/loss`, `train/loss`, ..."""


def train(config: DictConfig) -> float:
    """Train as the config says; returns the best value of the monitored metric, NaN without a validation."""
    return run_training(config).best


def run_training(config: DictConfig) -> TrainingResult:
    """Train as the config says.

    With several devices, each of their processes calls this.
    A refused run leaves its folder as it was; config.yaml is written when training begins.
    """
    folder, resumes = on_rank_zero(find_run_dir, config)
    with lock_run_dir(folder):
        config.output_dir = str(folder)  # callbacks and loggers refer to it
        with first_of_machine_first():
            validate_config(config, resumes)
            report_foreign_parts(config, auto=config.resume == "auto")
        train_set, val_set = build_datasets(config)
        weights = read_weights(config.init_from) if config.init_from and not resumes else None
        config = on_rank_zero(finish_config, config, resumes, train_set, weights)

        seed_everything(config.seed, verbose=False)
        data, length = build_data_module(config, train_set, val_set)
        segmenter = build_segmenter(config, len(train_set.classes))
        if weights is not None:
            load_initial_weights(segmenter, weights, config, train_set.classes)
        if has_own_parts(config):
            check_parts(segmenter, train_set[0]["image"], len(train_set.classes))
        warn_of_long_averages(config, length.total_steps)
        module = SegmentationModule(config, segmenter, train_set, length)
        warn_of_untrained_taps(config, segmenter, module.inference, train_set, val_set)
        set_up_performance(config, segmenter)

        def on_start(trainer: Trainer) -> None:
            write_start(folder, config, trainer)
            print_start(folder, config, trainer)

        trainer = build_trainer(config, length, on_start)
        data.at_once = partial(module.inference.images_at_once, device=trainer.strategy.root_device)

        checkpoint = on_rank_zero(find_resume_checkpoint, folder / "checkpoints") if resumes else None
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        pruned = pruned_after(trainer)
        best = write_result(folder, module.best, config.monitor, pruned)
    if pruned is not None:
        sys.exit(PRUNED)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}  # float32, also by callbacks
    return TrainingResult(folder.absolute(), best, logged | module.metrics)
