"""Sliding-window inference against full-size logits of every window, averaged on a canvas."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import PeakElements, agree
from small_networks import Cells, images, network

from segframe.errors import UserError
from segframe.inference import SlidingWindow, WholeImage, sliding_window
from segframe.inference.sliding_window import sum_row
from segframe.models.logits import Logits


def pyramid(h, w):
    """Weights of a window's pixels: the steps to its next border in each direction, multiplied."""
    rows, columns = torch.arange(h)[:, None], torch.arange(w)
    return (torch.minimum(rows, h - 1 - rows) + 1.0) * (torch.minimum(columns, w - 1 - columns) + 1.0)


def reference(segmenter, batch, window, stride, weights=torch.ones):
    """Full-size logits of every window summed on a canvas, divided by a map of counts."""
    height, width = batch.shape[-2:]
    h, w = min(window[0], height), min(window[1], width)
    total, count = torch.zeros(()), torch.zeros(())
    for i in range(max(height - h + stride[0] - 1, 0) // stride[0] + 1):
        for j in range(max(width - w + stride[1] - 1, 0) // stride[1] + 1):
            top, left = min(i * stride[0], height - h), min(j * stride[1], width - w)
            scores = segmenter(batch[..., top : top + h, left : left + w])
            around = (left, width - left - w, top, height - top - h)
            weight = weights(h, w)
            total, count = total + F.pad(scores * weight, around), count + F.pad(weight, around)
    return total / count


@pytest.mark.parametrize("head", ["fcn", "fcn8s", "deeplabv2", "unet"])
def test_exact_is_the_mean_of_full_size_logits(head):
    segmenter = network(head)
    batch = images(70, 61)
    with torch.inference_mode():
        full = SlidingWindow([48, 40], [20, 33], "exact", batch_size=3)(segmenter, batch).full()
        expected = reference(segmenter, batch, (48, 40), (20, 33))
    assert len(full.unique()) > 100
    agree(full, expected)
    assert torch.equal(full.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(
    ("size", "window", "stride", "aligned"),
    [
        ((96, 160), (64, 64), (32, 48), False),
        ((101, 83), (41, 64), (17, 64), True),
        ((50, 200), (64, 72), (64, 8), False),
        ((64, 65), (64, 64), (1, 1), True),
    ],
)
def test_exact_for_any_sizes(size, window, stride, aligned):
    segmenter = Cells(channels=7, aligned=aligned)
    batch = images(*size, n=2)
    expected = reference(lambda crops: segmenter.outputs(crops)["main"].full(), batch, window, stride)
    for batch_size in (3, 100):
        scores = SlidingWindow(list(window), list(stride), "exact", batch_size)(segmenter, batch)
        agree(scores.full(), expected)
        assert torch.equal(scores.classes(), expected.argmax(1).to(torch.uint8))


@pytest.mark.parametrize("size", [(96, 160), (101, 83), (30, 90)])
def test_tapered_is_the_weighted_mean(size):
    segmenter, batch = Cells(channels=7), images(*size, n=2)
    expected = reference(lambda crops: segmenter.outputs(crops)["main"].full(), batch, (41, 64), (17, 40), pyramid)
    tapered = SlidingWindow([41, 64], [17, 40], "exact", 3, tapered=True)
    agree(tapered(segmenter, batch).full(), expected)
    plain = SlidingWindow([41, 64], [17, 40], "exact", 3)
    assert str(plain.without_seams()) == str(tapered) == f"{plain}, tapered"
    assert tapered.without_seams() is tapered
    agree(plain.without_seams()(segmenter, batch).full(), expected)


class Slopes(Cells):
    """Stands in for a network whose scores depend on the window's borders: they rise from its upper left corner."""

    def outputs(self, batch):
        h, w = (n // self.stride for n in batch.shape[-2:])
        plane = (torch.arange(h)[:, None] / h + torch.arange(w) / w)[None, None]
        return {"main": Logits(plane.repeat(len(batch), 2, 1, 1), (batch.shape[-2], batch.shape[-1]), None)}


@pytest.mark.parametrize(("mode", "cell", "jump"), [("exact", 1, 10), ("fast", 8, 2.5)])
def test_without_seams_scores_are_as_smooth_at_borders_of_windows_as_elsewhere(mode, cell, jump):
    batch = torch.zeros(1, 3, 256, 352, dtype=torch.uint8)
    plain = SlidingWindow(96, 64, mode, 4)

    def steps(inference):  # between neighbours, at the windows' borders and elsewhere
        values = inference(Slopes(), batch).values[0, 0]
        found = []
        for axis, last in ((0, 160), (1, 256)):
            firsts = {*range(0, last, 64), last}
            borders = sorted({n // cell - 1 for first in firsts for n in (first, first + 96)} - {-1})
            size = values.diff(dim=axis).abs().amax(dim=1 - axis)
            at = torch.zeros(len(size), dtype=torch.bool)
            at[[border for border in borders if border < len(size)]] = True
            found.append((size[at].max(), size[~at].max()))
        return found

    for border, elsewhere in steps(plain.without_seams()):
        assert border < 2 * elsewhere
    for border, elsewhere in steps(plain):
        assert border > jump * elsewhere


@pytest.mark.parametrize(("size", "aligned"), [((96, 160), True), ((101, 83), False), ((50, 201), True)])
def test_fast_averages_on_the_grid(size, aligned):
    """Cells have the same scores in every window, so their mean is that of the whole image."""
    segmenter = Cells(aligned=aligned)
    batch = images(*size, n=2)
    for batch_size in (1, 3):
        found = SlidingWindow(64, [30, 43], "fast", batch_size)(segmenter, batch)
        # The image, extended to whole cells.
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
    rows, columns = (torch.tensor([x for x in range(n) if abs((x + 16) % 32 - 16) > 4]) for n in (96, 160))
    assert not differs[rows][:, columns].any()


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
        with PeakElements() as peak:
            classes = inference(segmenter, batch).classes()
        assert classes.shape == (1, height, 256)
        peaks.append(peak.elements)
    assert peaks[0] == peaks[1] < 40 * 64 * 256


def test_rows_of_windows_are_freed_after_their_last_band(monkeypatch):
    made, counts = [], []

    def recording(windows, weights, width):
        strip, rows = sum_row(windows, weights, width)
        made.append(weakref.ref(strip))
        return strip, rows

    monkeypatch.setattr(sliding_window, "sum_row", recording)
    for _ in SlidingWindow(32, 16, "exact", 4)(Cells(), images(320, 32)).bands():
        counts.append(sum(strip() is not None for strip in made))
    assert len(made) == 19
    assert max(counts) == 2


def test_window_and_stride_default_to_the_training_crops():
    default = SlidingWindow(None, None, "exact", 1)
    assert default.with_training_defaults({"transforms": {"crop_size": [360, 481]}}).stride == (240, 320)
    derived = SlidingWindow(None, [8, 9], "fast", 2).with_training_defaults({"transforms": {"crop_size": 96}})
    assert str(derived) == "sliding windows of 96x96 pixels every 8 down and 9 to the right, fast"
    explicit = SlidingWindow(64, None, "exact", 1)
    assert explicit.with_training_defaults({"transforms": {"crop_size": 96}}) is explicit
    for config in ({"transforms": {"train": []}}, {}):
        with pytest.raises(UserError, match=r"inference\.window=null: this network was not trained on crops"):
            default.with_training_defaults(config)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": [8, 8, 8]}, r"inference\.window=\[8, 8, 8\]: it must be a number of pixels, 1 or more"),
        ({"stride": [8, -1]}, r"inference\.stride=\[8, -1\]: it must be a number of pixels"),
        ({"stride": [16, 17]}, r"inference\.stride=\[16, 17\]: it leaves gaps between windows of \[16, 16\] pixels"),
        ({"mode": "fats"}, r"inference\.mode=fats: unknown mode; did you mean fast\?"),
        ({"batch_size": 0}, r"inference\.batch_size=0: it must be between 1 and"),
    ],
)
def test_wrong_settings(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        SlidingWindow(**({"window": 16, "stride": 8, "mode": "exact", "batch_size": 1} | settings))


def test_errors_of_fast():
    segmenter = Cells()
    with pytest.raises(UserError, match=r"height of inference\.window, 33, is no multiple of .* 8; set it to 32"):
        SlidingWindow([33, 32], 16, "fast", 1)(segmenter, images(64, 64))
    with pytest.raises(UserError, match="logits of this network are as large as the image; choose inference"):
        SlidingWindow(32, 16, "fast", 1)(network("fcn32s"), images(64, 64))
