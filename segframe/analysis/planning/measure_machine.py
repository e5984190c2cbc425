"""Facts of a machine: its devices, memory and weights, and the time and memory of real training steps."""

import ctypes
import gc
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torchvision.models import get_model_weights, list_models

from segframe.analysis.planning.facts import MachineFacts, StepFacts, ValidationFacts
from segframe.analysis.planning.measure_data import read_size, spread
from segframe.config.instantiate import instantiate
from segframe.config.machine import num_cores
from segframe.data.base import SegmentationDataset
from segframe.data.build import RunLength
from segframe.data.cache_setup import free_memory
from segframe.data.loader import collate, count_workers
from segframe.data.transforms import Transform
from segframe.inference.banded_scores import classes_and_logits
from segframe.inference.base import Inference
from segframe.inference.build import pick_device
from segframe.models.build import build_segmenter
from segframe.models.losses.combined import total_loss
from segframe.models.weights.packaged import is_packaged
from segframe.training.finish_config import finish_config, has_fast_bfloat16
from segframe.training.module import SegmentationModule
from segframe.training.performance import set_up_performance

STEPS = 5
"""Timed steps of a measurement, after one that is not."""
SECONDS = 20.0
"""Seconds after which a measurement stops before STEPS timed steps; at least one step is timed."""
ANY_LENGTH = RunLength(total_steps=1000, steps_per_epoch=1000, val_every_n_steps=1000)


def measure_machine(accelerator: str, num_workers: int | None, folder: str | None) -> MachineFacts:
    """Return the device, cores, memory and space of this machine; `folder`: of the data."""
    device = pick_device(accelerator, "trainer.accelerator")
    cores = num_cores()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores} cores, {cpu_name()}"
    return MachineFacts(
        device=name,
        is_gpu=device.type == "cuda",
        cores=cores,
        loader_processes=count_workers(num_workers, device.type == "cuda"),
        free_bytes=free_memory(),
        device_bytes=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory(),
        disk_bytes=shutil.disk_usage(Path(folder or ".").expanduser()).free,
        load=os.getloadavg()[0] / cores if hasattr(os, "getloadavg") else 0.0,
        precisions=("bf16-mixed", "32-true") if has_fast_bfloat16(accelerator) else ("32-true",),
    )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def has_imagenet_weights(variant: str) -> bool:
    """Whether ImageNet weights of a backbone variant are on this machine: in a Python package or torch.hub's cache."""
    if is_packaged(variant):
        return find_spec("timm") is not None
    if variant not in list_models():
        return False
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return (folder / Path(get_model_weights(variant)["IMAGENET1K_V1"].url).name).is_file()


class Trial:
    """A network of a composed config, ready for training steps on images of a dataset."""

    def __init__(self, config: DictConfig, train: SegmentationDataset) -> None:
        torch.manual_seed(config.seed)
        config.trainer.compile = False  # takes minutes for each network and size
        config = finish_config(config, False, train, None)
        self.config, self.train = config, train
        self.device = pick_device(config.trainer.accelerator, "trainer.accelerator")
        segmenter = build_segmenter(config, len(train.classes)).to(self.device)
        set_up_performance(config, segmenter)
        self.module = SegmentationModule(config, segmenter, train, ANY_LENGTH).to(self.device)
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def measure_step(self) -> StepFacts:
        self.train.transform = Transform(instantiate(self.config.transforms.train, "transforms"))
        items: list[dict[str, Any]] = []
        read_seconds: list[float] = []
        transform_seconds: list[float] = []
        for k in range(self.config.data.batch_size):
            index = k % len(self.train)
            items.append(self.train[(0, index)])  # from here on the file is in memory
            start = perf_counter()
            image, mask = self.train.read(index)
            middle = perf_counter()
            self.train.transform(image, mask, k)
            read_seconds.append(middle - start)
            transform_seconds.append(perf_counter() - middle)
        batch = collate(items)
        images, masks = batch["image"].to(self.device), batch["mask"].to(self.device)
        self.module.segmenter.train()
        gc.collect()
        held = reset_peak(self.device)
        seconds = timed(lambda: self.step(images, masks), self.device)
        peak = peak_bytes(self.device)
        return StepFacts(
            size=(masks.shape[1], masks.shape[2]),
            batch=len(masks),
            precision=self.config.trainer.precision,
            seconds=seconds,
            peak_bytes=None if held is None or peak is None else peak - held,
            sample_seconds=float(np.median(read_seconds) + np.median(transform_seconds)),
            read_seconds=float(np.median(read_seconds)),
        )

    def step(self, images: Tensor, masks: Tensor) -> None:
        module = self.module
        total_loss(module.loss, module.output_weights, module.segmenter.outputs(images), masks).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def measure_validation(self, val: SegmentationDataset, inference: Inference) -> ValidationFacts:
        """Measure the seconds for loading and validating one image of the median size."""
        indices = spread(len(val), 100)
        areas = [np.prod(read_size(val, index)) for index in indices]
        index = indices[int(np.argsort(areas)[len(areas) // 2])]
        self.module.segmenter.eval()

        def validate() -> None:
            item = val[index]
            images, masks = item["image"][None].to(self.device), item["mask"][None].to(self.device)
            with torch.inference_mode():
                classes, logits = classes_and_logits(inference(self.module.segmenter, images), images)
                self.module.loss(logits, masks)
            self.module.confusion.to(self.device).update(classes, masks)

        return ValidationFacts(timed(validate, self.device))


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Return the time of the quickest of STEPS calls after one that is not measured, or of fewer if they take long."""
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) <= STEPS and sum(seconds) < SECONDS):
        start = perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(perf_counter() - start)
    return min(seconds[1:])


def reset_peak(device: torch.device) -> int | None:
    """Reset the peak memory counter; returns the bytes in use now, None if the system has no such counter."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc keeps freed memory, which would count
        libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM to VmRSS
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak of memory since `reset_peak`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
