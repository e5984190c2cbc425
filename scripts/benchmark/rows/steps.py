"""Rows of whole training steps."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from benchmark import peers
from benchmark.clock import Clock
from benchmark.measure import alternating, compare
from benchmark.networks import (
    Context,
    autocast,
    batch_of,
    loss_of,
    network,
    optimizer_of,
    precision_of,
    prepare_training,
    training_step,
)
from benchmark.row import SEGFRAME, Group, Measured, NotMeasurable, Row, Setup, Target
from segframe.config.instantiate import instantiate
from segframe.data.build import RunLength, build_datasets
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.heads.fcn import FCN
from segframe.models.losses.base import Loss
from segframe.models.ops.atrous_conv import AtrousConv2d
from segframe.models.segmenter import Normalize, Segmenter
from segframe.training.finish_config import finish_config, has_fast_bfloat16
from segframe.training.module import SegmentationModule, seed_generators
from segframe.training.trainer import build_trainer

LIGHTNING = "Lightning without callbacks"
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def pruned(setup: Setup) -> Measured:
    """DeepLabV3-R50's forward, loss and backward with and without kernel taps that only see padding."""
    config, segmenter = network(setup, 21, "backbone=resnet50", "head=deeplabv3", "head.dropout=0")
    twin = copy.deepcopy(segmenter)
    for layer in twin.modules():
        if isinstance(layer, AtrousConv2d):
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
    loss = loss_of(config, setup)
    images, mask = batch_of(setup, 2, setup.pick(256, 128), 21)

    def step(model: Segmenter, images: Tensor, mask: Tensor) -> Tensor:
        model.zero_grad()
        total = loss(model.outputs(images)["main"], mask)
        total.backward()
        return total.detach()

    def gradient(model: Segmenter) -> tuple[Tensor, Tensor]:
        # In double precision: batch norm amplifies the rounding errors of another order of summation.
        double = copy.deepcopy(model).double()
        total = step(double, images[..., :128, :128], mask[..., :128, :128])
        return total, torch.cat([p.grad.flatten() for p in double.parameters() if p.grad is not None])

    (a, da), (b, db) = gradient(segmenter), gradient(twin)
    apart = max(((a - b) / b).abs().item(), ((da - db).norm() / db.norm()).item())
    differs = {SEGFRAME: f"loss or gradient differ by {apart:.1e}"} if apart > 1e-5 else {}
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        SEGFRAME: lambda: lambda: step(segmenter, images, mask),
        "unpruned": lambda: lambda: step(twin, images, mask),
    }
    found = compare(setup, makers, memory=False, differs=differs)
    return replace(found, note=f"float32, batch 2 at {images.shape[-1]}")


def whole_step(setup: Setup) -> Measured:
    """DeepLabV3+-R50 with 150 classes against smp's with interpolation and cross-entropy."""
    dtype, size, num_classes = precision_of(setup.device), setup.pick(512, 256), 150
    images, mask = batch_of(setup, 2, size, num_classes)

    def ours() -> Callable[[], object]:
        # smp's decoder has one separable convolution at stride 4.
        words = ("backbone=resnet50", "head=deeplabv3plus", "head.num_convs=1", "optimizer=sgd")
        config, segmenter = network(setup, num_classes, *words)
        context = prepare_training(config, segmenter, setup.device, dtype)
        loss, optimizer = loss_of(config, setup), optimizer_of(config, segmenter)
        return lambda: training_step(segmenter, loss, optimizer, images, mask, context)

    def smp() -> Callable[[], object]:
        model = peers.smp_network("resnet50", num_classes).to(setup.device).train()
        return peers.peer_step(model, images, mask, autocast(setup.device, dtype))

    found = compare(setup, {SEGFRAME: ours, "smp": smp})
    return replace(found, note=f"{NAMES[dtype]}, batch 2 at {size}")


def precision(setup: Setup) -> Measured:
    """segframe's step in bfloat16 against float32."""
    if not has_fast_bfloat16(setup.device.type):
        raise NotMeasurable("this device has no bfloat16 arithmetic")
    images, mask = batch_of(setup, 2, setup.pick(256, 128), 21)

    def step(dtype: torch.dtype) -> Callable[[], object]:
        config, segmenter = network(setup, 21, "backbone=resnet50", "head=deeplabv3plus")
        context = prepare_training(config, segmenter, setup.device, dtype)
        loss, optimizer = loss_of(config, setup), optimizer_of(config, segmenter)
        return lambda: training_step(segmenter, loss, optimizer, images, mask, context)

    makers = {name: partial(step, dtype) for dtype, name in NAMES.items()}
    return replace(compare(setup, makers), note=f"DeepLabV3+-R50, batch 2 at {images.shape[-1]}")


class Patches(Backbone):
    """A backbone of almost no cost: one convolution on patches of 8x8 pixels."""

    lr_multiplier = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.features = {"c3": Feature(8, 8, 3.5)}
        self.layer = nn.Conv2d(3, 8, 8, 8)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"c3": self.layer(images)}


class SmallestModule(pl.LightningModule):
    """A minimal LightningModule with the network, loss and optimizer of the plain loop: Lightning's own overhead."""

    def __init__(
        self, seed: int, segmenter: Segmenter, loss: Loss, optimizer: Optimizer, scheduler: LRScheduler
    ) -> None:
        super().__init__()
        self.seed, self.segmenter, self.loss, self.parts = seed, segmenter, loss, (optimizer, scheduler)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        seed_generators(self.seed + batch_idx, self.device)
        return self.loss(self.segmenter.outputs(batch["image"])["main"], batch["mask"])

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.parts
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def overhead(setup: Setup) -> Measured:
    """Steps of DeepLabV3+-R50."""
    return lightning_and_loop(setup, setup.pick(256, 128), setup.pick(12, 4))


def overhead_alone(setup: Setup) -> Measured:
    """Steps of a minimal network on one core, since handing such small work to another core takes longer."""
    backbone = Patches()
    head = FCN(backbone.features, 8, 8, ["c3"], "none", 1.0)
    segmenter = Segmenter(backbone, head, None, Normalize([127.5] * 3, [64.0] * 3))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return lightning_and_loop(setup, 32, setup.pick(500, 200), segmenter)
    finally:
        torch.set_num_threads(threads)


def lightning_and_loop(setup: Setup, size: int, steps: int, first: Segmenter | None = None) -> Measured:
    """Blocks of steps in Lightning, set up as by train.py or without callbacks, and in a plain loop.

    From the same weights and batches.
    """
    dtype = precision_of(setup.device)
    words = [
        *("backbone=resnet50", "head=deeplabv3plus", "data=shapes", f"data.dataset.size={size}"),
        *("data.dataset.num_images={train: 2, val: 1, test: 1}", f"data.crop_size={size}"),
        f"trainer.accelerator={setup.device.type.replace('cuda', 'gpu')}",
        f"trainer.precision={'32-true' if dtype is torch.float32 else 'bf16-mixed'}",
        f"output_dir={(setup.folder / 'overhead').resolve()}",
        *(
            "+callbacks.clock._target_=benchmark.clock.Clock",
            f"+callbacks.clock.last={steps}",
            "~callbacks.report",
            "callbacks.loading.tolerated=1",
        ),
    ]
    config, segmenter = network(setup, 8, *words)
    first = first or segmenter
    dataset, _ = build_datasets(config)
    config = finish_config(config, False, dataset, None)
    images, mask = batch_of(setup, 2, size, 8)
    batches = [{"image": images, "mask": mask, "name": ["a", "b"]}] * (steps + 1)
    length = RunLength(steps + 1, steps + 1, steps + 1)
    finals = {}

    def lightning() -> float:
        # The CSV logger would rewrite a file that already holds these steps.
        shutil.rmtree(config.output_dir, ignore_errors=True)
        segmenter = copy.deepcopy(first)
        prepare_training(config, segmenter, setup.device, dtype)
        module = SegmentationModule(config, segmenter, dataset, length)
        trainer = build_trainer(config, length, on_start=lambda trainer: None)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        (clock,) = [callback for callback in callbacks if isinstance(callback, Clock)]
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        finals[SEGFRAME] = segmenter
        return (clock.times["batches"] - clock.times["second"]) / steps

    def lightning_alone() -> float:
        clock = Clock(last=steps)
        trainer = pl.Trainer(
            max_steps=steps + 1,
            max_epochs=-1,
            precision=config.trainer.precision,
            accelerator=config.trainer.accelerator,
            devices=1,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        segmenter, _, *parts = made()
        trainer.fit(SmallestModule(config.seed, segmenter, *parts), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        finals[LIGHTNING] = segmenter
        return (clock.times["batches"] - clock.times["second"]) / steps

    def made() -> tuple[Segmenter, Context, Loss, Optimizer, LRScheduler]:
        segmenter = copy.deepcopy(first)
        context = prepare_training(config, segmenter, setup.device, dtype)
        loss, optimizer = loss_of(config, setup), optimizer_of(config, segmenter)
        scheduler = instantiate(config.scheduler, "scheduler")(optimizer, total_steps=length.total_steps)
        return segmenter, context, loss, optimizer, scheduler

    def plain() -> float:
        clock = Clock(last=steps)
        segmenter, context, loss, optimizer, scheduler = made()
        for k, batch in enumerate(batches):
            clock.on_train_batch_start(None, None, batch, k)  # type: ignore[arg-type]
            seed_generators(config.seed + k, setup.device)
            training_step(segmenter, loss, optimizer, batch["image"], batch["mask"], context)  # type: ignore[arg-type]
            scheduler.step()
        clock.on_train_batch_end(None, None, None, None, steps)  # type: ignore[arg-type]
        finals["plain loop"] = segmenter
        return (clock.times["batches"] - clock.times["second"]) / steps

    variants = {SEGFRAME: lightning, LIGHTNING: lightning_alone, "plain loop": plain}
    seconds = alternating(variants, setup.rounds, 6 * setup.seconds)
    weights = {name: torch.cat([p.detach().flatten() for p in model.parameters()]) for name, model in finals.items()}
    reference = weights.pop("plain loop")
    apart = max(((found - reference).norm() / reference.norm()).item() for found in weights.values())
    differs = {SEGFRAME: f"weights differ by {apart:.1e}"} if apart > 1e-5 else {}
    note = f"{NAMES[dtype]}, batch 2 at {size}, default callbacks and loggers, blocks of {steps} steps"
    return Measured(seconds, differs=differs, note=note)


GROUPS = (
    Group((Row("aspp_pruned", "unpruned", Target(0.9)),), pruned),
    Group((Row("step_150", "smp", Target(0.8, 0.6)),), whole_step),
    Group((Row("overhead", "plain loop", Target(1.02)),), overhead),
    Group(
        (
            Row("overhead_alone", "plain loop", Target(seconds_more=0.0008)),
            Row("overhead_alone", LIGHTNING, Target(seconds_more=0.0004)),
        ),
        overhead_alone,
    ),
    Group((Row("bf16", "float32", Target(1 / 1.6), ours="bfloat16"),), precision),
)
