"""Rows for GPUs: training throughput at 513x513 (512x512 against smp), batch 16."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark import peers
from benchmark.measure import compare, interleaved
from benchmark.networks import (
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
from segframe.models.segmenter import Segmenter

NUM_CLASSES = 21


def throughput(
    words: tuple[str, ...], peer: str, make_peer: Callable[[], nn.Module], size: int
) -> Callable[[Setup], Measured]:
    """Training steps of a network and of a peer's, with images per second and the share of the device's peak FLOPs."""

    def measure(setup: Setup) -> Measured:
        if setup.device.type != "cuda":
            raise NotMeasurable("needs a GPU")
        batch, dtype = setup.pick(16, 4), precision_of(setup.device)
        images, mask = batch_of(setup, batch, size, NUM_CLASSES)
        config, segmenter = network(setup, NUM_CLASSES, *words)
        flops = 3 * forward_flops(segmenter, images[:1])

        def ours() -> Callable[[], object]:
            context = prepare_training(config, segmenter, setup.device, dtype)
            loss, optimizer = loss_of(config, setup), optimizer_of(config, segmenter)
            return lambda: training_step(segmenter, loss, optimizer, images, mask, context)

        def theirs() -> Callable[[], object]:
            model = make_peer().to(setup.device).train()
            return peers.peer_step(model, images, mask, autocast(setup.device, dtype))

        found = compare(setup, {SEGFRAME: ours, peer: theirs})
        peak = matmul_flops(setup, dtype)
        metrics = {}
        for name, seconds in found.seconds.items():
            speed = batch / statistics.median(seconds)
            metrics[name] = {"images/s": speed}
            if name == SEGFRAME:
                metrics[name] |= {"share of peak FLOPs": speed * flops / peak, "GFLOPs an image": flops / 1e9}
        note = (
            f"batch {batch} at {size}, {dtype}; FLOPs: 3 x forward; peak: a matrix product's, {peak / 1e12:.0f} TFLOP/s"
        )
        return replace(found, metrics=metrics, note=note)

    return measure


def forward_flops(segmenter: Segmenter, images: Tensor) -> int:
    """FLOPs of the forward pass (backward takes twice as many; counters overestimate it for grouped convolutions)."""
    segmenter.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        segmenter.outputs(images)
    segmenter.train()
    return counter.get_total_flops()


def matmul_flops(setup: Setup, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    n = 8192
    a, b = (torch.randn(n, n, device=setup.device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / statistics.median(interleaved({"matmul": lambda: a @ b}, setup)["matmul"])


def row(name: str, words: tuple[str, ...], peer: str, make_peer: Callable[[], nn.Module], size: int = 513) -> Group:
    """The row of a network, without a target."""
    return Group((Row(name, peer, Target()),), throughput(words, peer, make_peer, size))


GROUPS = (
    row("gpu_fcn8s", ("model=fcn8s",), "torchvision's VGG-16", lambda: peers.PlainFCN8s(NUM_CLASSES)),
    row(
        "gpu_deeplabv3_r50",
        ("backbone=resnet50", "head=deeplabv3"),
        "torchvision",
        lambda: peers.TorchvisionNetwork(NUM_CLASSES),
    ),
    *(
        row(
            f"gpu_deeplabv3plus_r{depth}",
            (f"backbone=resnet{depth}", "head=deeplabv3plus", "head.num_convs=1"),  # as smp's decoder
            "smp",
            partial(peers.smp_network, f"resnet{depth}", NUM_CLASSES),
            512,  # smp's networks take multiples of 16
        )
        for depth in (50, 101)
    ),
)
