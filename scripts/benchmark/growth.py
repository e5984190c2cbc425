"""Cost by crop size, number of classes and number of workers: DeepLabV3+ on ResNet-18."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.measure import TreeMemory, interleaved, peak_memory
from benchmark.networks import (
    batch_of,
    composed,
    loss_of,
    network,
    optimizer_of,
    precision_of,
    prepare_training,
    training_step,
)
from benchmark.report import NO_MATPLOTLIB, save_figure
from benchmark.row import Setup
from benchmark.rows.data import training_data, voc
from segframe.data.datamodule import DataModule

BATCH = 4


def grow(setup: Setup) -> list[dict[str, Any]]:
    """Return points {"over", "value", "images/s", "MiB"}: peak memory of a step, or of the loader with its workers."""
    crops = (128, 256) if setup.quick else (128, 192, 256, 384, 512)
    classes = (2, 150) if setup.quick else (2, 21, 80, 150)
    cores = os.cpu_count() or 1
    workers = sorted({0, 1, cores} if setup.quick else {0, 1, 2, cores // 2, cores})
    return [
        *({"over": "crop size", "value": size, **step(setup, size, 21)} for size in crops),
        *({"over": "classes", "value": n, **step(setup, 256, n)} for n in classes),
        *({"over": "workers", "value": n, **loading(setup, n)} for n in workers),
    ]


def step(setup: Setup, size: int, num_classes: int) -> dict[str, float | None]:
    """A training step's images per second and peak memory."""
    config, segmenter = network(setup, num_classes, "backbone=resnet18", "head=deeplabv3plus")
    context = prepare_training(config, segmenter, setup.device, precision_of(setup.device))
    loss, optimizer = loss_of(config, setup), optimizer_of(config, segmenter)
    images, mask = batch_of(setup, BATCH, size, num_classes)

    def call() -> object:
        return training_step(segmenter, loss, optimizer, images, mask, context)

    seconds = statistics.median(interleaved({"step": call}, setup)["step"])
    peak = peak_memory(call, setup.device)
    return {"images/s": BATCH / seconds, "MiB": None if peak is None else peak / 2**20}


def loading(setup: Setup, workers: int) -> dict[str, float | None]:
    """Images per second of the training loader alone, on images of VOC's size, after its workers have started."""
    dataset = training_data(composed(*voc(setup)))
    batches = setup.pick(60, 12)
    data = DataModule(
        dataset, dataset, batch_size=BATCH, num_workers=workers, num_batches=batches + 2 * workers + 1, seed=0
    )
    memory = TreeMemory(os.getpid())
    memory.start()
    loader = iter(data.train_dataloader())
    for _ in range(2 * workers + 1):  # already prefetched
        next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    seconds = time.perf_counter() - start
    peak = memory.stop()
    return {"images/s": BATCH * batches / seconds, "MiB": None if peak is None else peak / 2**20}


def plot(path: Path, points: Sequence[dict[str, Any]]) -> str:
    """Plot images per second and memory over each quantity; return the file's name, or why there is no plot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return NO_MATPLOTLIB
    names = list(dict.fromkeys(point["over"] for point in points))
    figure = Figure(figsize=(4 * len(names), 5), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        own = [point for point in points if point["over"] == name]
        for line, (unit, label) in enumerate((("images/s", "images/s"), ("MiB", "peak memory, MiB"))):
            axes = grid[line][column]
            known = [(point["value"], point[unit]) for point in own if point[unit] is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], marker="o")
            axes.set_ylim(0, 1.1 * max((y for _, y in known), default=1))
            axes.set_xticks([x for x, _ in known])
            axes.set_xlabel(name)
            axes.set_ylabel(label)
    return save_figure(path, figure)
