"""Rows of data loading: sample pipelines, one core each, and the decoded cache."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import cv2
import torch
from omegaconf import DictConfig

from benchmark.images import folder_tree, voc_tree
from benchmark.measure import Call, compare
from benchmark.networks import composed
from benchmark.pipelines import Pipeline, albumentations_pipeline, mmseg_pipeline, torchvision_pipeline
from benchmark.processes import Forked
from benchmark.row import SEGFRAME, Group, Measured, Row, Setup, Target
from segframe.data.base import SegmentationDataset
from segframe.data.build import build_datasets
from segframe.inference.prepare import keep_freed_memory
from segframe.models.build import build_normalize

CROP = 513
NUM_CITY_CLASSES = 19


def voc(setup: Setup) -> list[str]:
    """Generate images of VOC's size; return the overrides that select them."""
    root = setup.folder / "voc"
    if not root.is_dir():
        voc_tree(root, setup.pick(24, 12), setup.camvid)
    return ["data=voc", f"data.root={root}", f"data.crop_size={CROP}"]


def cityscapes(setup: Setup) -> list[str]:
    """Generate images of Cityscapes' size; return the overrides that select them."""
    root = setup.folder / "cityscapes"
    if not root.is_dir():
        folder_tree(root, {"train": setup.pick(8, 4), "val": 1}, (1024, 2048), NUM_CITY_CLASSES, setup.camvid)
    classes = ",".join(f"c{k}" for k in range(NUM_CITY_CLASSES))
    return ["data=folder", f"data.root={root}", f"data.crop_size={CROP}", f"data.dataset.classes=[{classes}]"]


def training_data(config: DictConfig) -> SegmentationDataset:
    """Build the training split as train.py does."""
    return build_datasets(config)[0]


def one_pass(config: DictConfig, dataset: SegmentationDataset, finish: Callable[[torch.Tensor], object]) -> Call:
    """Return a function that reads one epoch of a dataset, passing each image to `finish` as a batch of one."""
    if config.trainer.keep_freed_memory:
        keep_freed_memory()
    epochs = count()

    def read() -> None:
        epoch = next(epochs)
        for index in range(len(dataset)):
            finish(dataset[(epoch, index)]["image"][None])

    return read


def one_pass_of(pipeline: Pipeline, dataset: SegmentationDataset) -> Call:
    """Return a call that reads the same files through a peer's pipeline."""
    files = [(sample.image, sample.mask) for sample in dataset.samples]

    def read() -> None:
        for image, mask in files:
            pipeline(image, mask)

    return read


def on_one_core(setup: Setup, makers: dict[str, Callable[[], Call]], images: int, note: str) -> Measured:
    """Compare passes over the images, each in a process of its own like a worker, and add images per second."""
    forked: list[Forked] = []

    def fork(make: Callable[[], Call]) -> Callable[[], Call]:
        def make_in_child() -> Call:
            torch.set_num_threads(1)
            cv2.setNumThreads(0)
            return make()

        def start() -> Call:
            forked.append(Forked(make_in_child))
            return forked[-1]

        return start

    try:
        makers = {name: fork(make) for name, make in makers.items()}
        found = compare(replace(setup, device=torch.device("cpu")), makers, memory=False)
    finally:
        for process in forked:
            process.stop()
    speed = {name: {"images/s": images / statistics.median(s)} for name, s in found.seconds.items()}
    return replace(found, note=note, metrics=speed)


def pipelines(words: Callable[[Setup], list[str]], short_side: int) -> Callable[[Setup], Measured]:
    """segframe's pipeline, including the normalization by its network, against the peers'."""

    def measure(setup: Setup) -> Measured:
        config = composed(*words(setup))
        dataset = training_data(config)
        makers: dict[str, Callable[[], Call]] = {
            SEGFRAME: lambda: one_pass(config, dataset, build_normalize(config.normalize)),
            "albumentations": lambda: one_pass_of(albumentations_pipeline(CROP), dataset),
            "mmseg-style": lambda: one_pass_of(mmseg_pipeline(CROP), dataset),
            "torchvision v2": lambda: one_pass_of(torchvision_pipeline(CROP, short_side), dataset),
        }
        return on_one_core(
            setup,
            makers,
            len(dataset),
            f"one core, a process each; including normalization; {describe_images(dataset, setup)}",
        )

    return measure


def cached(words: Callable[[Setup], list[str]], kind: str) -> Callable[[Setup], Measured]:
    """Epochs of a dataset with a filled cache against the same without a cache."""

    def measure(setup: Setup) -> Measured:
        chosen = words(setup)
        cache = [f"data.cache={kind}"]
        if kind == "disk":
            cache.append(f"data.cache_dir={(setup.folder / 'cache').resolve()}")
        config = composed(*chosen)
        plain, fast = training_data(config), training_data(composed(*chosen, *cache))
        differs = {}
        for index in range(len(fast)):  # fills the cache
            fast[(0, index)]
        for index in range(min(4, len(fast))):
            a, b = plain[(1, index)], fast[(1, index)]
            if not (torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])):
                differs[SEGFRAME] = "samples from the cache differ"
        makers: dict[str, Callable[[], Call]] = {
            SEGFRAME: lambda: one_pass(config, fast, len),
            "without cache": lambda: one_pass(config, plain, len),
        }
        note = f"one core; samples as the loader gets them; {describe_images(fast, setup)}"
        found = on_one_core(setup, makers, len(fast), note)
        return replace(found, differs=differs)

    return measure


def describe_images(dataset: SegmentationDataset, setup: Setup) -> str:
    """Size and origin of the JPEGs; decoding time depends on both."""
    kilobytes = statistics.mean(sample.image.stat().st_size for sample in dataset.samples) / 1000
    return f"JPEGs of {kilobytes:.0f} kB, {'generated' if setup.camvid is None else 'CamVid photographs resized'}"


def targets(name: str, *speedups: float) -> tuple[Row, ...]:
    """A pipeline's rows; targets are speedups over each peer."""
    peers = ("albumentations", "mmseg-style", "torchvision v2")
    return tuple(Row(name, peer, Target(time=1 / x)) for peer, x in zip(peers, speedups, strict=True))


GROUPS = (
    Group(targets("pipeline_voc", 2, 4, 7), pipelines(voc, 375)),
    Group(targets("pipeline_cityscapes", 1.7, 2, 3.5), pipelines(cityscapes, 1024)),
    *(
        Group((Row(f"cache_{kind}_{name}", "without cache", Target(time=1 / x)),), cached(words, kind))
        for name, words, x in (("voc", voc, 2), ("cityscapes", cityscapes, 8))
        for kind in ("ram", "disk")
    ),
)
