"""One training run, from its composed config to its result."""

from functools import partial

from omegaconf import DictConfig
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import LambdaCallback

from segframe.data.build import build_data
from segframe.models.build import build_segmenter, initialize_from
from segframe.training import build, checkpoint_io, loggers, monitor, performance, run_dir
from segframe.training.trainer import build_trainer


def train(config: DictConfig) -> float:
    """Train as the config says; returns the best value of the monitored metric."""
    folder = run_dir.open_run_dir(config)
    with run_dir.lock_run_dir(folder):
        performance.resolve(config.trainer)
        performance.set_deterministic(config.deterministic)
        seed_everything(config.seed, verbose=False)
        data, length = build_data(config)
        build.resolve_auto_weights(config.loss, data.train)
        if (config.resume or config.init_from) and "weights" in config.backbone:
            if config.init_from and config.backbone.weights:
                print(f"backbone.weights={config.backbone.weights} is not read: init_from is given")
            config.backbone.weights = None
        segmenter = build_segmenter(config, len(data.train.classes))
        if config.init_from and not config.resume:
            initialize_from(segmenter, config, data.train.classes)
        performance.apply(config.trainer, segmenter)
        module = build.build_module(config, segmenter, data.train, length)
        trainer = build_trainer(config, length)
        # Once the checkpoint has been found to fit: a run that is refused keeps its config.
        start = partial(run_dir.write_start, folder, config, trainer.strategy.root_device)
        trainer.callbacks.insert(0, LambdaCallback(on_train_start=lambda *_: start()))  # type: ignore[attr-defined]
        last = checkpoint_io.resume_from(folder / "checkpoints") if config.resume else None
        if last is None:
            loggers.forget_after(-1, trainer.loggers)  # of a run that was killed before its first checkpoint
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
        return run_dir.write_result(folder, monitor.best_score(trainer, config.monitor), config.monitor)
