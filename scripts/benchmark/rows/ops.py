"""Rows of single operations: loss, argmax, metric, optimizer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark import peers
from benchmark.images import score_maps
from benchmark.measure import Call, compare
from benchmark.networks import network, optimizer_of
from benchmark.row import SEGFRAME, Group, Measured, Row, Setup, Target
from segframe import IGNORE_INDEX
from segframe.inference.metrics import ConfusionMatrix
from segframe.models.logits import Logits
from segframe.models.losses.cross_entropy import CrossEntropy

PLAIN_LOSS = "F.interpolate, F.cross_entropy"
PLAIN_CLASSES = "full logits, argmax"


def loss(num_classes: int, side: int, stride: int, batch: int) -> Callable[[Setup], Measured]:
    """Upsampling and cross-entropy, forward and backward to the coarse logits."""

    def measure(setup: Setup) -> Measured:
        n = setup.pick(batch, 1)
        generator = torch.Generator().manual_seed(0)
        cells = -(-side // stride)
        values = torch.randn(n, num_classes, cells, cells, generator=generator).to(setup.device).requires_grad_()
        mask = torch.randint(0, num_classes, (n, side, side), dtype=torch.uint8, generator=generator)
        mask[torch.rand(mask.shape, generator=generator) < 0.05] = IGNORE_INDEX
        mask, criterion = mask.to(setup.device), CrossEntropy(None, 0.0)

        def ours() -> tuple[Tensor, Tensor]:
            total = criterion(Logits(values, (side, side), None), mask)
            return total.detach(), torch.autograd.grad(total, values)[0]

        def plain() -> tuple[Tensor, Tensor]:
            total = peers.plain_cross_entropy(values, mask, (side, side))
            return total.detach(), torch.autograd.grad(total, values)[0]

        (a, da), (b, db) = ours(), plain()
        apart = max(((a - b) / b).abs().item(), ((da - db).abs().max() / db.abs().max()).item())
        differs = {SEGFRAME: f"loss or gradient differ by {apart:.1e}"} if apart > 1e-5 else {}
        return compare(setup, {SEGFRAME: lambda: ours, PLAIN_LOSS: lambda: plain}, differs=differs)

    return measure


def classes(num_classes: int, side: int, stride: int) -> Callable[[Setup], Measured]:
    """The class of every pixel from coarse logits."""

    def measure(setup: Setup) -> Measured:
        cells = -(-side // stride)
        values = score_maps(num_classes, setup.pick(2, 1), (cells, cells)).to(setup.device)
        logits = Logits(values, (side, side), None)

        def plain() -> Tensor:
            return F.interpolate(values, (side, side), mode="bilinear", align_corners=False).argmax(1)

        apart = int((logits.classes() != plain()).sum())
        differs = {SEGFRAME: f"{apart} pixels differ"} if apart else {}
        return compare(setup, {SEGFRAME: lambda: logits.classes, PLAIN_CLASSES: lambda: plain}, differs=differs)

    return measure


def metric(setup: Setup) -> Measured:
    """Updating a confusion matrix (segframe) or IoU metric (peer) with 8 images of 512x512 pixels."""
    from torchmetrics.classification import MulticlassJaccardIndex

    num_classes, batch, side = 150, 8, 512
    truth = torch.randint(0, num_classes, (batch, side, side), dtype=torch.uint8)
    prediction = truth.where(torch.rand(truth.shape) < 0.7, (truth + 1) % num_classes).to(setup.device)
    truth[torch.rand(truth.shape) < 0.05] = IGNORE_INDEX
    truth = truth.to(setup.device)
    ours = ConfusionMatrix(num_classes).to(setup.device)
    jaccard = MulticlassJaccardIndex(num_classes, ignore_index=IGNORE_INDEX).to(setup.device)
    wide, wide_truth = prediction.long(), truth.long()

    def mmseg() -> list[tuple[Tensor, Tensor, Tensor]]:
        return [peers.mmseg_areas(p, t, num_classes) for p, t in zip(wide, wide_truth, strict=True)]

    ours.update(prediction, truth)
    jaccard.update(wide, wide_truth)
    intersect, predicted, true = (sum(parts) for parts in zip(*mmseg(), strict=True))
    counts = ours.matrix.cpu()
    same = torch.equal(counts, jaccard.confmat.cpu().long()) and all(
        torch.equal(a, b.long())
        for a, b in ((counts.diag(), intersect), (counts.sum(0), predicted), (counts.sum(1), true))
    )
    makers: dict[str, Callable[[], Call]] = {
        SEGFRAME: lambda: lambda: ours.update(prediction, truth),
        "torchmetrics": lambda: lambda: jaccard.update(wide, wide_truth),
        "mmseg-style": lambda: mmseg,
    }
    return compare(setup, makers, memory=False, differs={} if same else {SEGFRAME: "counts differ"})


def optimizer(name: str) -> Callable[[Setup], Measured]:
    """A step of the configured optimizer against the same class with PyTorch's default implementation."""

    def measure(setup: Setup) -> Measured:
        config, segmenter = network(setup, 21, "model=fcn8s", f"optimizer={name}")
        for parameter in segmenter.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        fast = optimizer_of(config, segmenter)
        plain = rebuild(fast, [{**group, "fused": None, "foreach": None} for group in fast.param_groups])
        small, small_twin = (nn.Linear(50, 50, device=setup.device) for _ in range(2))
        small_twin.load_state_dict(small.state_dict())
        for original, layer in ((fast, small), (plain, small_twin)):
            stepper = rebuild(original, [{**original.param_groups[0], "params": list(layer.parameters())}])
            for k in range(3):
                for parameter in layer.parameters():
                    parameter.grad = torch.full_like(parameter, 0.1 * (k + 1))
                stepper.step()
        apart = (small.weight - small_twin.weight).abs().max().item()
        differs = {SEGFRAME: f"weights differ by {apart:.1e}"} if apart > 1e-6 else {}
        makers: dict[str, Callable[[], Call]] = {
            SEGFRAME: lambda: fast.step,
            "PyTorch's default": lambda: plain.step,
        }
        return compare(setup, makers, memory=False, differs=differs)

    return measure


def rebuild(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer of the same class over groups that hold all settings."""
    make: Callable[..., torch.optim.Optimizer] = type(optimizer)
    return make(groups)


GROUPS = (
    *(
        Group((Row(f"loss_{c}{name}", PLAIN_LOSS, Target(t, m)),), loss(c, side, stride, batch))
        for name, stride in (("", 4), ("_stride8", 8))
        for c, side, batch, t, m in ((21, 513, 4, 0.55, 0.3), (150, 512, 2, 0.35, 0.25))
    ),
    Group((Row("classes_21", PLAIN_CLASSES, Target(0.35, 0.3)),), classes(21, 513, 4)),
    Group((Row("classes_150", PLAIN_CLASSES, Target(0.25, 0.3)),), classes(150, 512, 4)),
    Group(
        (Row("metric_150", "torchmetrics", Target(1 / 30)), Row("metric_150", "mmseg-style", Target(1 / 15))), metric
    ),
    *(
        Group((Row(f"optimizer_{name}", "PyTorch's default", Target(0.3)),), optimizer(name))
        for name in ("sgd", "adamw")
    ),
)
