"""Sliding windows: the same as full-size logits added up, without ever storing those."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import OWN_BACKBONE, agree, build_network, composed, options
from test_inference import images
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.config.instantiate import instantiate
from segframe.errors import UserError
from segframe.inference import sliding_window
from segframe.inference.sliding_window import SlidingWindow, origins, side_by_side
from segframe.inference.whole_image import WholeImage
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.logits import Logits
from segframe.models.ops.argmax import best
from segframe.models.segmenter import Normalize, Segmenter


class Cells(nn.Module):
    """A stand-in for a network: scores (N, C, h, w) that belong to single cells of `stride` pixels, and nothing else.

    A cell's scores are a random function of its pixels' mean, so that they do not depend on where a window begins.
    """

    def __init__(self, channels=3, stride=8, aligned=False):
        super().__init__()
        self.stride, self.aligned = stride, aligned
        generator = torch.Generator().manual_seed(2)
        self.frequencies = torch.rand(channels, 1, 1, generator=generator) * 0.3
        self.normalize = Normalize([0.0] * 3, [1.0] * 3)

    def outputs(self, batch):
        size = (batch.shape[-2], batch.shape[-1])
        x = batch[:, :1].float()
        x = x[..., :: self.stride, :: self.stride] if self.aligned else F.avg_pool2d(x, self.stride, ceil_mode=True)
        return {"main": Logits((x * self.frequencies).sin(), size, self.stride if self.aligned else None)}


class Narrow(Backbone):
    """Five strided convolutions of 8 channels."""

    def __init__(self):
        super().__init__()
        self.lr_multiplier = 1.0
        self.stages = nn.ModuleDict({f"c{k}": nn.Conv2d(3 if k == 1 else 8, 8, 3, 2, 1) for k in range(1, 6)})
        self.features = {f"c{k}": Feature(8, 2**k, 0.0) for k in range(1, 6)}

    def forward(self, batch):
        maps, x = {}, batch
        for name, stage in self.stages.items():
            maps[name] = x = stage(x).tanh()
        return maps


def network(head):
    """A small network with random weights, none of them zero."""
    torch.manual_seed(0)
    if head in OWN_BACKBONE:
        backbone, small = OWN_BACKBONE[head]
        return build_network(f"backbone={backbone}", *small, f"head={head}", classes=5).eval()
    backbone = Narrow()
    layers = instantiate(composed(f"head={head}").head, "head")(backbone.features, 5)
    for parameter in layers.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    return Segmenter(backbone, layers, None, Normalize([120.0] * 3, [60.0] * 3)).eval()


def added_up(segmenter, batch, window, stride):
    """The plain way: full-size logits of every window on a canvas, divided by a map of counts."""
    height, width = batch.shape[-2:]
    h, w = min(window[0], height), min(window[1], width)
    total, count = torch.zeros(()), torch.zeros(())
    for i in range(max(height - h + stride[0] - 1, 0) // stride[0] + 1):
        for j in range(max(width - w + stride[1] - 1, 0) // stride[1] + 1):
            top, left = min(i * stride[0], height - h), min(j * stride[1], width - w)
            scores = segmenter(batch[..., top : top + h, left : left + w])
            around = (left, width - left - w, top, height - top - h)
            total, count = total + F.pad(scores, around), count + F.pad(torch.ones(h, w), around)
    return total / count


class Peak(TorchDispatchMode):
    """The most elements that a tensor of floats ever had while this was on."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize("head", options("head"))
def test_exact_is_the_mean_of_full_size_logits(head):
    segmenter = network(head)
    batch = images(70, 61)
    with torch.inference_mode():
        full = SlidingWindow([48, 40], [20, 33], "exact", batch_size=3)(segmenter, batch).full()
        expected = added_up(segmenter, batch, (48, 40), (20, 33))
    assert len(full.unique()) > 100
    agree(full, expected)
    assert torch.equal(full.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((96, 160), (64, 64), (32, 48)),
        ((101, 83), (41, 64), (17, 64)),
        ((50, 200), (64, 72), (64, 8)),
        ((50, 60), (64, 72), (9, 9)),
        ((64, 65), (64, 64), (1, 1)),
    ],
)
def test_exact_at_any_sizes(size, window, stride, aligned):
    segmenter = Cells(channels=7, aligned=aligned)
    batch = images(*size, n=2)
    expected = added_up(lambda crops: segmenter.outputs(crops)["main"].full(), batch, window, stride)
    for batch_size in (1, 3, 100):
        scores = SlidingWindow(list(window), list(stride), "exact", batch_size)(segmenter, batch)
        agree(scores.full(), expected)
        assert torch.equal(scores.classes(), expected.argmax(1).to(torch.uint8))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(96, 160), (101, 83), (50, 201)])
def test_fast_averages_on_the_grid(size, aligned):
    """Where a cell's scores are the same in every window, their mean is the whole image's."""
    segmenter = Cells(aligned=aligned)
    batch = images(*size, n=2)
    for batch_size in (1, 3):
        found = SlidingWindow(64, [30, 43], "fast", batch_size)(segmenter, batch)
        # The image, continued to whole cells where the windows' cells are that.
        height, width = (n if n < 64 or aligned else -(-n // 8) * 8 for n in size)
        rows, columns = torch.arange(height).clamp(max=size[0] - 1), torch.arange(width).clamp(max=size[1] - 1)
        expected = segmenter.outputs(batch[..., rows, :][..., columns])["main"]
        agree(found.full(), expected.full()[..., : size[0], : size[1]])
        assert torch.equal(found.classes(), expected.classes()[..., : size[0], : size[1]])
        assert found.values.shape == expected.values.shape
        assert found.aligned_stride == expected.aligned_stride


def test_fast_and_exact_differ_at_the_windows_borders_only():
    segmenter = Cells(channels=4)
    batch = images(96, 160)
    exact, fast = (SlidingWindow(64, 32, mode, 4)(segmenter, batch).full() for mode in ("exact", "fast"))
    differs = ((exact - fast).abs() > 1e-5).any(1)[0]
    assert differs.any()
    borders = [32, 64]  # the first and last pixel of a window within the image
    inside = [y for y in range(96) if all(abs(y - border) > 4 for border in borders)]
    across = [x for x in range(160) if all(abs(x - border) > 4 for border in (32, 64, 96, 128))]
    assert not differs[inside][:, across].any()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_one_window_is_the_whole_image(mode):
    segmenter = network("fcn")
    batch = images(75, 93, n=2)
    with torch.inference_mode():
        found, expected = SlidingWindow(96, 64, mode, 1)(segmenter, batch), WholeImage()(segmenter, batch)
        agree(found.full(), expected.full())
        assert torch.equal(found.classes(), expected.classes())


def test_memory_does_not_grow_with_the_height():
    inference = SlidingWindow([32, 64], [16, 64], "exact", batch_size=2)
    peaks = []
    for height in (64, 640):
        batch = torch.zeros(1, 3, height, 256, dtype=torch.uint8)
        segmenter = Cells(channels=40)
        with Peak() as peak:
            classes = inference(segmenter, batch).classes()
        assert classes.shape == (1, height, 256)
        peaks.append(peak.elements)
    assert peaks[0] == peaks[1] < 40 * 64 * 256


def test_rows_of_windows_are_freed_when_they_end(monkeypatch):
    made, counts = [], []

    def watched(windows, width):
        strip, rows = side_by_side(windows, width)
        made.append(weakref.ref(strip))
        return strip, rows

    monkeypatch.setattr(sliding_window, "side_by_side", watched)
    for _ in SlidingWindow(32, 16, "exact", 4)(Cells(), images(320, 32)).bands():
        counts.append(sum(strip() is not None for strip in made))
    assert len(made) == 19
    assert max(counts) == 2


def test_the_last_window_ends_with_the_image():
    assert origins(10, 4, 3) == [0, 3, 6]
    assert origins(11, 4, 3) == [0, 3, 6, 7]
    assert origins(4, 4, 1) == [0]


def test_the_best_class_is_the_first_of_equals():
    for scores in (torch.randint(0, 3, (2, 5, 9, 7)).float(), torch.randn(1, 3, 255, 4)):
        expected = scores.argmax(2).to(torch.uint8)
        assert torch.equal(best(scores), expected)


def test_window_and_stride_follow_from_the_training():
    untold = SlidingWindow(None, None, "exact", 1)
    assert untold.with_training_defaults({"transforms": {"crop_size": [360, 481]}}).stride == (240, 320)
    suited = SlidingWindow(None, [8, 9], "fast", 2).with_training_defaults({"transforms": {"crop_size": 96}})
    assert str(suited) == "sliding windows of 96x96 pixels every 8 down and 9 to the right, fast"
    assert SlidingWindow(64, None, "exact", 1).with_training_defaults({"transforms": {"crop_size": 96}}).window == (
        64,
        64,
    )
    for config in ({"transforms": {"train": []}}, {}):
        with pytest.raises(UserError, match=r"inference\.window must be given: this network was not trained on crops"):
            untold.with_training_defaults(config)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": 0}, r"inference\.window must be a positive number of pixels or \[height, width\], got 0"),
        ({"window": [8, 8, 8]}, r"inference\.window must be a positive number"),
        ({"stride": [8, -1]}, r"inference\.stride must be a positive number .* got \[8, -1\]"),
        ({"stride": [16, 17]}, r"inference\.stride=\[16, 17\] leaves gaps between windows of \[16, 16\] pixels"),
        ({"mode": "fats"}, r"inference\.mode=fats: there is no such mode; did you mean fast\?"),
        ({"batch_size": 0}, r"inference\.batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_told(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        SlidingWindow(**({"window": 16, "stride": 8, "mode": "exact", "batch_size": 1} | settings))


def test_what_cannot_be_fast_is_told():
    segmenter = Cells()
    with pytest.raises(UserError, match=r"height of inference\.window must be a multiple of 8, .* got 33: e\.g\. 32"):
        SlidingWindow([33, 32], 16, "fast", 1)(segmenter, images(64, 64))
    with pytest.raises(UserError, match="needs a head with coarse logits; this one's are as large as the image"):
        SlidingWindow(32, 16, "fast", 1)(network("fcn32s"), images(64, 64))
