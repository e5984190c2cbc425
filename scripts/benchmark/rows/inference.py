"""Rows of inference: evaluation of whole images and in sliding windows, and exported files."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmark import peers
from benchmark.images import CAMVID_SIZE, camvid_tree
from benchmark.measure import Call, compare
from benchmark.networks import batch_of, composed, network, prepare_training
from benchmark.row import SEGFRAME, Group, Measured, NotMeasurable, Row, Setup, Target
from benchmark.rows.runs import DEEPLAB
from segframe.config.instantiate import instantiate
from segframe.data.base import SegmentationDataset
from segframe.data.build import build_datasets
from segframe.errors import UserError
from segframe.inference import export_graph
from segframe.inference.evaluate import evaluate, predict_split
from segframe.inference.export import run_torch
from segframe.inference.metrics import ConfusionMatrix
from segframe.inference.onnx_network import open_session, run_session
from segframe.models.segmenter import Segmenter

NUM_CLASSES = 11
BOUNDARIES = "with boundaries"
SMP = "smp, torchmetrics"
MMSEG = "mmseg-style"
ONNX = "onnxruntime"
PROGRAM = "torch.export"
EAGER = "eager"


def trained(setup: Setup, *words: str) -> tuple[DictConfig, Segmenter]:
    """DeepLabV3+ on ResNet-18 as after a training in float32, from random weights; they do not change the time."""
    config, segmenter = network(setup, NUM_CLASSES, *DEEPLAB, *words)
    prepare_training(config, segmenter, setup.device, torch.float32)
    return config, segmenter.eval()


def evaluation(windows: bool) -> Callable[[Setup], Measured]:
    """Measure the evaluation of CamVid-sized images, whole or in sliding windows, including data loading and metric."""

    def measure(setup: Setup) -> Measured:
        count, window, stride = setup.pick(8, 2), 240, 160
        root = setup.folder / f"evaluation_{count}"
        if not root.is_dir():
            camvid_tree(root, setup.camvid, {"train": 1, "val": count})
        config, segmenter = trained(setup, "data=camvid", f"data.root={root.resolve()}", "data.crop_size=240")
        _, dataset = build_datasets(config)
        words = [f"inference.window={window}", f"inference.stride={stride}"] if windows else []
        kind = "sliding_window" if windows else "whole"
        chosen = composed("checkpoint=none", "data=shapes", f"inference={kind}", *words, name="evaluate")
        inference = instantiate(chosen.inference, "inference")
        ours = (segmenter, dataset, inference, None, 0)

        def counted() -> ConfusionMatrix:
            matrix = ConfusionMatrix(NUM_CLASSES)
            for image, classes in predict_split(*ours):
                matrix.update(classes[None], image["mask"])
            return matrix

        def coarse(image: Tensor) -> Tensor:
            return segmenter.outputs(image)["main"].values

        def mmseg(image: Tensor) -> Tensor:
            if windows:
                return peers.mmseg_slide(coarse, image, NUM_CLASSES, window, stride)
            return F.interpolate(coarse(image), image.shape[-2:], mode="bilinear", align_corners=False).argmax(1)

        def mmseg_loop() -> list[Tensor]:
            totals = [torch.zeros(NUM_CLASSES) for _ in range(3)]
            with torch.inference_mode():
                for image, mask in loaded(dataset, setup.device):
                    areas = peers.mmseg_areas(mmseg(image)[0], mask[0], NUM_CLASSES)
                    totals = [total + area for total, area in zip(totals, areas, strict=True)]
            return totals

        matrix, correct = counted().matrix, mmseg_loop()[0]
        apart = (matrix.diagonal().cpu() - correct).abs().sum().item() / max(1, int(matrix.sum()))
        differs = {SEGFRAME: f"counts differ by {100 * apart:.3f} % of the pixels"} if apart > 1e-4 else {}
        makers: dict[str, Callable[[], Call]] = {
            SEGFRAME: lambda: counted,
            BOUNDARIES: lambda: lambda: evaluate(*ours),
            MMSEG: lambda: mmseg_loop,
            **({} if windows else {SMP: lambda: smp_loop(dataset, setup)}),
        }
        found = compare(setup, makers, differs=differs)
        size = "x".join(map(str, CAMVID_SIZE))
        how = f"windows of {window} every {stride} pixels" if windows else "whole images"
        return replace(
            found,
            note=f"DeepLabV3+-R18 in float32, {count} images of about {size}, {how}, loader in the process; "
            "mmseg-style runs segframe's network",
            metrics={name: {"images/s": count / statistics.median(s)} for name, s in found.seconds.items()},
        )

    return measure


def loaded(dataset: SegmentationDataset, device: torch.device) -> Any:
    """Yield (image uint8 (1, 3, H, W), mask uint8 (1, H, W)) for each item, from a DataLoader without workers."""
    for item in torch.utils.data.DataLoader(dataset, batch_size=1):
        yield item["image"].to(device), item["mask"].to(device)


def smp_loop(dataset: SegmentationDataset, setup: Setup) -> Call:
    """Return a plain evaluation loop of smp's network: pad the image, logits, argmax, torchmetrics' Jaccard index."""
    from torchmetrics.classification import MulticlassJaccardIndex

    model = peers.smp_network("resnet18", NUM_CLASSES).to(setup.device).eval()
    jaccard = MulticlassJaccardIndex(NUM_CLASSES, ignore_index=255).to(setup.device)
    mean, std = (torch.tensor(x, device=setup.device).view(1, 3, 1, 1) for x in (peers.MEAN, peers.STD))

    def call() -> Tensor:
        jaccard.reset()
        with torch.inference_mode():
            for image, mask in loaded(dataset, setup.device):
                height, width = image.shape[-2:]
                x = F.pad((image.float() / 255 - mean) / std, (0, -width % 16, 0, -height % 16))
                jaccard.update(model(x)[..., :height, :width].argmax(1), mask.long())
        result: Tensor = jaccard.compute()
        return result

    return call


def exported(setup: Setup) -> Measured:
    """Measure inference on one CamVid-sized image: the eager network, its ONNX file, its torch.export program."""
    if setup.device.type != "cpu":
        raise NotMeasurable("a row of the CPU")
    try:
        export_graph.require_packages("format=onnx")
    except UserError as error:
        raise NotMeasurable(str(error)) from error
    _, segmenter = trained(setup)
    size = setup.pick(480, 128)
    images = batch_of(setup, 1, size, NUM_CLASSES)[0][..., : size * 3 // 4, :].contiguous()
    deployed = export_graph.Deployed(segmenter)
    program = export_graph.trace(deployed, torch.zeros(export_graph.TRACED[0], 3, *export_graph.TRACED[1:]).byte(), "")
    session = open_session(export_graph.to_onnx(program, deployed, 20, "format=onnx").SerializeToString())
    # Sizes other than the traced one are refused by guards that the graph does not need.
    module: nn.Module = program.module(check_guards=False)
    runs = {
        EAGER: partial(run_torch, deployed, images),
        ONNX: partial(run_session, session, images),
        PROGRAM: partial(run_torch, module, images),
    }
    expected, differs = runs[EAGER]()[0], {}
    for name, run in runs.items():
        apart = (run()[0] != expected).float().mean().item()
        if apart > 1e-4:
            differs[name] = f"{100 * apart:.3f} % of the classes differ"
    found = compare(setup, {name: partial(lambda run: run, run) for name, run in runs.items()}, differs=differs)
    height, width = images.shape[-2:]
    note = f"DeepLabV3+-R18 in float32, one image of {height}x{width}, {NUM_CLASSES} classes; classes and scores"
    return replace(found, note=note)


def rows(name: str, *others: str) -> tuple[Row, ...]:
    """An evaluation's rows: without boundary metrics against others, and with them against none."""
    against = tuple(Row(name, other, Target(1.0, 1.0)) for other in others)
    return (*against, Row(f"{name}_boundaries", SEGFRAME, Target(1.3), ours=BOUNDARIES))


GROUPS = (
    Group(rows("evaluate_whole", SMP, MMSEG), evaluation(windows=False)),
    Group(rows("evaluate_windows", MMSEG), evaluation(windows=True)),
    Group(
        (
            Row("export_onnx", EAGER, Target(1.0), ours=ONNX),
            Row("export_torch", EAGER, Target(1.05), ours=PROGRAM),
        ),
        exported,
    ),
)
