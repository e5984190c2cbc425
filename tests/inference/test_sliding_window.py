"""Sliding-window inference against full-size logits of every window, averaged on a canvas."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import PeakElements, agree, options
from small_networks import Cells, images, network

from segframe.errors import UserError
from segframe.inference import SlidingWindow, WholeImage, sliding_window
from segframe.inference.sliding_window import sum_row


def reference(segmenter, batch, window, stride):
    """Full-size logits of every window summed on a canvas, divided by a map of counts."""
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


@pytest.mark.parametrize("head", options("head"))
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

    def recording(windows, width):
        strip, rows = sum_row(windows, width)
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
        (
            {"window": [8, 8, 8]},
            r"inference\.window=\[8, 8, 8\]: it must be a number of pixels, 1 or more",
        ),
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
    with pytest.raises(UserError, match="logits of this head are as large as the image; choose inference"):
        SlidingWindow(32, 16, "fast", 1)(network("fcn32s"), images(64, 64))
