"""Rows of training settings against the defaults: deterministic mode, EMA, activation checkpointing, two devices."""

import statistics

import torch

from benchmark.measure import alternating
from benchmark.row import SEGFRAME, Group, Measured, NotMeasurable, Row, Setup, Target
from benchmark.rows.runs import CLOCK, Process

WITHOUT = "without"
ONE = "one process"
COSTS = {
    "deterministic": ("deterministic=true",),
    "average": ("callbacks=ema",),
    "checkpointing": ("trainer.activation_checkpointing=true",),
}
DEVICES = {
    ONE: ("trainer.devices=1",),
    SEGFRAME: ("trainer.devices=2", "trainer.sync_batch_norm=false"),
    "synchronized": ("trainer.devices=2", "trainer.sync_batch_norm=true"),
}


def steps_of(
    setup: Setup, variants: dict[str, tuple[str, ...]], name: str, words: list[str], batch: int, threads: int | None
) -> Measured:
    """Seconds and peak memory of a training's steps from the second on, on the embedded dataset; each a process.

    `threads`: of each of a training's processes; None: as many as this process has.
    """
    steps, size, rounds = setup.pick(8, 3), setup.pick(224, 64), setup.pick(2, 1)
    accelerator = "gpu" if setup.device.type == "cuda" else "cpu"
    common = [
        *("train.py", "data=shapes", f"data.dataset.size={size}", f"data.crop_size={size}", *words),
        *("data.dataset.num_images={train: 64, val: 2, test: 1}", f"data.batch_size={batch}", "data.num_workers=0"),
        *(f"trainer.accelerator={accelerator}", "trainer.precision=32-true", "transforms=light"),
        *(f"trainer.max_steps={steps + 1}", f"trainer.val_every_n_steps={steps + 1}", "output_dir={folder}/run"),
        *(*CLOCK, f"+callbacks.clock.last={steps}"),
    ]
    folder = setup.folder / name
    processes = {
        variant: Process([*common, *more], folder / variant.replace(" ", "_"), threads=threads)
        for variant, more in variants.items()
    }
    seconds = alternating({variant: process.seconds_of_steps for variant, process in processes.items()}, rounds, 600)
    return Measured(
        seconds,
        {variant: process.peak() for variant, process in processes.items()},
        note=f"DeepLabV3+, float32, {steps} steps of {batch} crops of {size}x{size}, loader in the process; memory: "
        "proportional set size of all processes with the libraries, sampled",
        metrics={variant: {"images/s": steps * batch / statistics.median(s)} for variant, s in seconds.items()},
    )


def costs(setup: Setup) -> Measured:
    """Steps of DeepLabV3+ on ResNet-50 with a setting and without."""
    words = ["backbone=resnet50", "backbone.weights=null", "head=deeplabv3plus"]
    return steps_of(setup, {WITHOUT: (), **COSTS}, "costs", words, 4, None)


def devices(setup: Setup) -> Measured:
    """Steps of DeepLabV3+ on ResNet-18 by one process and by two; each process has one thread of the CPU.

    The batch is that of all processes together.
    """
    if setup.device.type == "cuda" and torch.cuda.device_count() < 2:
        raise NotMeasurable("needs two GPUs")
    words = ["backbone=resnet18", "backbone.weights=null", "head=deeplabv3plus"]
    return steps_of(setup, DEVICES, "devices", words, 8, 1)


GROUPS = (
    Group(
        (
            Row("cost_deterministic", WITHOUT, Target(1.1), ours="deterministic"),
            Row("cost_average", WITHOUT, Target(1.05), ours="average"),
            Row("cost_checkpointing", WITHOUT, Target(1.4, 0.95), ours="checkpointing"),
        ),
        costs,
    ),
    Group(
        (
            Row("devices_two", ONE, Target(1 / 1.4)),
            Row("devices_two_synchronized", ONE, Target(1 / 1.2), ours="synchronized"),
        ),
        devices,
    ),
)
