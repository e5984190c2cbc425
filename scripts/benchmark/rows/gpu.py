"""Rows for GPUs: training throughput at 513x513 (512x512 against smp) and 768x768, batch 16."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from benchmark import peers
from benchmark.measure import Call, compare, interleaved
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
from benchmark.peer_networks import PlainFCN8s
from benchmark.roofline import Roofline, measure_ceilings
from benchmark.row import SEGFRAME, Group, Measured, NotMeasurable, Row, Setup, Target

COMPILED = "segframe, compiled"
TARGET = Target(time=1 / 1.5)
"""One and a half times the peers' images per second."""


def throughput(
    words: tuple[str, ...], peer: str, make_peer: Callable[[], nn.Module], size: int, num_classes: int
) -> Callable[[Setup], Measured]:
    """Training steps of a network, also compiled, and of a peer's, with images per second and share of the roofline."""

    def measure(setup: Setup) -> Measured:
        if setup.device.type != "cuda":
            raise NotMeasurable("needs a GPU")
        return measure_steps(setup, setup.pick(16, 4), words, {peer: make_peer}, size, num_classes)

    return measure


def measure_steps(
    setup: Setup,
    batch: int,
    words: tuple[str, ...],
    others: dict[str, Callable[[], nn.Module]],
    size: int,
    num_classes: int,
) -> Measured:
    """Measure training steps of a network and of other projects' networks on the same batch."""
    dtype = precision_of(setup.device)
    images, mask = batch_of(setup, batch, size, num_classes)

    def ours(compiled: bool) -> Callable[[], Call]:
        def make() -> Call:
            config, segmenter = network(setup, num_classes, *words, f"trainer.compile={compiled}")
            context = prepare_training(config, segmenter, setup.device, dtype)
            loss, optimizer = loss_of(config, setup), optimizer_of(config, segmenter)
            return lambda: training_step(segmenter, loss, optimizer, images, mask, context)

        return make

    def theirs(make_model: Callable[[], nn.Module]) -> Callable[[], Call]:
        def make() -> Call:
            model = make_model().to(setup.device).train()
            return peers.peer_step(model, images, mask, autocast(setup.device, dtype))

        return make

    makers = {SEGFRAME: ours(compiled=False), COMPILED: ours(compiled=True)}
    found = compare(setup, makers | {name: theirs(model) for name, model in others.items()})
    ceilings = measure_ceilings(
        lambda call: statistics.median(interleaved({"call": call}, setup)["call"]), setup.device, dtype
    )
    step = ours(compiled=False)()
    step()  # the optimizer's state
    with Roofline(ceilings) as roofline:
        step()
    metrics = {}
    for name, seconds in found.seconds.items():
        second = statistics.median(seconds)
        metrics[name] = {"images/s": batch / second, "share of the roofline": roofline.seconds / second}
    note = (
        f"batch {batch} at {size}, {num_classes} classes, {dtype}; roofline: {1e3 * roofline.seconds:.3g} ms of "
        f"segframe's operators at {ceilings.flops / 1e12:.3g} TFLOP/s and {ceilings.bandwidth / 1e9:.4g} GB/s"
    )
    return replace(found, metrics=metrics, note=note)


def row(
    name: str,
    words: tuple[str, ...],
    peer: str,
    make_peer: Callable[[int], nn.Module],
    size: int = 513,
    num_classes: int = 21,
) -> Group:
    """The rows of a network, as it is and compiled."""
    rows = (Row(name, peer, TARGET), Row(f"{name}_compiled", peer, TARGET, ours=COMPILED))
    return Group(rows, throughput(words, peer, partial(make_peer, num_classes), size, num_classes))


def deeplabv3plus(name: str, depth: int, size: int, num_classes: int) -> Group:
    """Rows of DeepLabV3+ against smp's, with an equal decoder. `size`: of the crops, a multiple of 16."""
    words = (f"backbone=resnet{depth}", "head=deeplabv3plus", "head.num_convs=1")
    return row(name, words, "smp", partial(peers.smp_network, f"resnet{depth}"), size, num_classes)


GROUPS = (
    row("gpu_fcn8s", ("model=fcn8s",), "torchvision's VGG-16", PlainFCN8s),
    row("gpu_deeplabv3_r50", ("backbone=resnet50", "head=deeplabv3"), "torchvision", peers.TorchvisionNetwork),
    deeplabv3plus("gpu_deeplabv3plus_r50", 50, 512, 21),
    deeplabv3plus("gpu_deeplabv3plus_r50_150", 50, 512, 150),
    deeplabv3plus("gpu_deeplabv3plus_r101", 101, 512, 21),
    deeplabv3plus("gpu_deeplabv3plus_r101_768", 101, 768, 19),
)
