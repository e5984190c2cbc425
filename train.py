"""Trains one model: build, fit, return the best value of the monitored figure."""

import sys
from functools import partial

from omegaconf import DictConfig

from segframe import preemption, run_folder
from segframe.cli import command, importing


@command("train")
def main(config: DictConfig) -> float:
    """A run, from its composed config to its result."""
    # Imported here, so that --help and --cfg need no torch.
    with importing():
        from pytorch_lightning import seed_everything
        from pytorch_lightning.callbacks import LambdaCallback

        from segframe import build, loggers, memory_estimate, monitor, storage, switches, trouble
        from segframe.trainer import build_trainer

    folder = run_folder.open_folder(config)
    with run_folder.alone(folder):
        switches.resolve(config.trainer)
        switches.set_deterministic(config.deterministic)
        seed_everything(config.seed, verbose=False)
        data, length = build.build_data(config)
        build.resolve_auto_weights(config.loss, data.train)
        if (config.resume or config.init_from) and "weights" in config.backbone:
            if config.init_from and config.backbone.weights:
                print(f"backbone.weights={config.backbone.weights} is not read: init_from is given")
            config.backbone.weights = None
        segmenter = build.build_segmenter(config, len(data.train.classes))
        if config.init_from and not config.resume:
            build.initialize_from(segmenter, config, data.train.classes)
        switches.apply(config.trainer, segmenter)
        task = build.build_task(config, segmenter, data.train, length)
        trainer = build_trainer(config, length)
        # Once the checkpoint has been found to fit: a run that is refused keeps its config.
        start = partial(run_folder.write_start, folder, config, trainer.strategy.root_device)
        trainer.callbacks.insert(0, LambdaCallback(on_train_start=lambda *_: start()))  # type: ignore[attr-defined]
        last = storage.resume_from(folder / "checkpoints") if config.resume else None
        if last is None:
            loggers.forget_after(-1, trainer.loggers)  # of a run that was killed before its first checkpoint
        with trouble.named(data.train, data.val):
            shape = (config.data.batch_size, *data.train[0]["mask"].shape)
            memory_estimate.tell(task, shape, config.trainer, trainer.strategy.root_device)
            trainer.fit(task, data, ckpt_path=last, weights_only=True)
        return run_folder.write_result(folder, monitor.best_score(trainer, config.monitor), config.monitor)


if __name__ == "__main__":
    preemption.listen()
    sys.argv[1:] = run_folder.resume_arguments(sys.argv[1:])
    main()
