"""Bilinear resizing, banded cross-entropy and banded argmax against PyTorch's plain forms at full size."""

import pytest
import torch
import torch.nn.functional as F
from conftest import PeakElements, agree

from segframe.models.logits import Logits
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.ops.bilinear import axis, matrix, products, resize

# Cells, pixels, aligned_stride: odd sizes, single cells, cropped and padded ones, several products along each axis,
# full size, larger than the image.
SHAPES = [
    ((5, 6), (17, 23), None),
    ((1, 1), (9, 7), None),
    ((1, 4), (1, 130), None),
    ((20, 33), (77, 131), None),
    ((9, 9), (65, 65), 8),
    ((5, 7), (30, 50), 8),
    ((3, 4), (14, 20), 4),
    ((17, 23), (17, 23), None),
    ((17, 23), (17, 23), 8),
    ((20, 30), (13, 11), None),
]
CLASSES = [1, 2, 3, 19, 150, 255]
BANDS = [1 << 12, 1 << 18, 2 << 20]  # bytes: single rows, some rows, several images
shapes = pytest.mark.parametrize(("cells", "size", "stride"), SHAPES[::3])
# Every shape, with the numbers of classes and the bands in turn.
cases = pytest.mark.parametrize(
    ("cells", "size", "stride", "classes", "band"),
    [(*shape, CLASSES[k % 6], BANDS[k // 2 % 3]) for k, shape in enumerate(SHAPES)],
)


def set_band(monkeypatch, size):
    for module in ("row_bands", "argmax"):
        monkeypatch.setattr(f"segframe.models.ops.{module}.CPU_BAND", size)


@pytest.mark.parametrize("aligned_stride", [None, 8])
@pytest.mark.parametrize(("cells", "pixels"), [(1, 9), (5, 17), (9, 65), (17, 100), (33, 33)])
def test_interpolation_matrices_resize_as_torch(cells, pixels, aligned_stride):
    x = torch.randn(2, 3, cells, cells + 2, generator=torch.Generator().manual_seed(cells))
    size, cpu = (pixels, pixels + 5), torch.device("cpu")
    rows, columns = (matrix(n, c, aligned_stride, cpu) for n, c in zip(size, x.shape[-2:], strict=True))
    resized = resize(x, size, aligned_stride)
    torch.testing.assert_close(rows @ x @ columns.T, resized)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = products(x.contiguous(memory_format=layout), size, aligned_stride)
        torch.testing.assert_close(found, resized)
        assert found.is_contiguous(memory_format=layout)
        half = x.bfloat16().contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16):
            found = products(half, size, aligned_stride)
        torch.testing.assert_close(found, resize(half.float(), size, aligned_stride).bfloat16(), rtol=0.01, atol=1e-6)
    low, high, share = axis(size[0], cells, aligned_stride, cpu)
    assert ((high - low) <= 1).all()
    assert (low.diff() >= 0).all()
    assert 0 <= share.min() <= share.max() <= 1


def test_what_is_cached_in_inference_mode_serves_training():
    x = torch.ones(1, 1, 3, 4, requires_grad=True)
    with torch.inference_mode():
        products(x, (71, 73), None)
    products(x, (71, 73), None).sum().backward()
    assert x.grad is not None
    agree(x.grad.sum(), torch.tensor(71.0 * 73))


def sample(classes, cells, size, dtype=torch.float32, layout=torch.contiguous_format, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(3, classes, *cells, generator=generator)
    mask = torch.randint(0, classes, (3, *size), generator=generator).to(torch.uint8)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    mask[0, 0], mask[1] = 255, 255
    return values.to(dtype, memory_format=layout).requires_grad_(), mask


def plain(values, size, stride, mask, **settings):
    full = values if values.shape[-2:] == size else resize(values, size, stride)
    return F.cross_entropy(full, mask.long(), ignore_index=255, **settings)


@cases
def test_cross_entropy_and_its_gradient(cells, size, stride, classes, band, monkeypatch):
    set_band(monkeypatch, band)
    values, mask = sample(classes, cells, size)
    loss = CrossEntropy(None, 0.0)(Logits(values, size, stride), mask)
    loss.backward()
    exact = values.detach().double().requires_grad_()
    expected = plain(exact, size, stride, mask)
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=3e-6, atol=1e-6)
    agree(values.grad.double(), exact.grad)


@shapes
def test_any_memory_format_and_precision(cells, size, stride):
    values, mask = sample(19, cells, size)
    expected = CrossEntropy(None, 0.0)(Logits(values, size, stride), mask)
    expected.backward()
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        for layout in (torch.contiguous_format, torch.channels_last):
            other, _ = sample(19, cells, size, dtype, layout)
            with torch.autocast("cpu"):
                loss = CrossEntropy(None, 0.0)(Logits(other, size, stride), mask)
            (loss * 4).backward()
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, expected, rtol=3 * error, atol=0)
            assert other.grad.dtype == dtype
            difference = (other.grad.float() / 4 - values.grad).abs().max()
            assert difference <= 4 * error * values.grad.abs().max()


@pytest.mark.parametrize(
    ("weighted", "smoothing", "reduction", "index", "band"),
    [
        (False, 0.1, "mean", 3, BANDS[0]),
        (True, 0.0, "mean", 7, BANDS[1]),
        (True, 0.1, "pixel_mean", 3, BANDS[2]),
        (False, 0.0, "pixel_mean", 7, BANDS[0]),
        (True, 0.1, "sum", 7, BANDS[2]),
        (False, 0.0, "sum", 3, BANDS[1]),
    ],
)
def test_weights_smoothing_and_reductions(weighted, smoothing, reduction, index, band, monkeypatch):
    set_band(monkeypatch, band)
    cells, size, stride = SHAPES[index]
    values, mask = sample(19, cells, size, seed=1)
    weights = torch.linspace(0, 3, 19) if weighted else torch.ones(19)
    given = weights.tolist() if weighted else None
    loss = CrossEntropy(given, smoothing, reduction)(Logits(values, size, stride), mask)
    loss.backward()
    exact = values.detach().double().requires_grad_()
    settings = {"weight": weights.double(), "label_smoothing": smoothing}
    expected = plain(exact, size, stride, mask, **settings, reduction="mean" if reduction == "mean" else "sum")
    expected = expected / {"mean": 1, "pixel_mean": (mask != 255).sum(), "sum": len(mask)}[reduction]
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=3e-6, atol=0)
    agree(values.grad.double(), exact.grad)


@pytest.mark.parametrize(("size", "reduction"), [((40, 50), "mean"), ((5, 6), "pixel_mean"), ((40, 50), "sum")])
def test_masks_of_void_alone_give_zero_loss(size, reduction):
    values, mask = sample(4, (5, 6), size)
    for weights in (None, [1.0, 2.0, 0.0, 1.0]):
        loss = CrossEntropy(weights, 0.1, reduction)(Logits(values, size, None), torch.full_like(mask, 255))
        loss.backward()
        assert loss == 0
        assert (values.grad == 0).all()


def test_logits_of_minus_infinity():
    values, mask = sample(5, (9, 11), (9, 11))
    with torch.no_grad():
        values[:, 0] = -torch.inf
    mask[mask == 0] = 1
    loss = CrossEntropy(None, 0.0)(Logits(values, (9, 11), None), mask)
    loss.backward()
    exact = values.detach().clone().requires_grad_()
    expected = plain(exact, (9, 11), None, mask)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(values.grad, exact.grad)


def test_without_gradient_repeated_and_not_contiguous():
    values, mask = sample(19, (9, 11), (70, 81))
    logits = Logits(values, (70, 81), None)
    loss = CrossEntropy(None, 0.0)
    with torch.no_grad():
        validation = loss(logits, mask)
    assert not validation.requires_grad
    first, second = (torch.autograd.grad(loss(logits, mask), values)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert validation == loss(logits, mask)
    part = values[..., 1:8, 2:9]
    assert not part.is_contiguous()
    cropped = loss(Logits(part, (7, 7), None), mask[:, :7, :7])
    torch.testing.assert_close(cropped, plain(part, (7, 7), None, mask[:, :7, :7]))


@pytest.mark.parametrize("stride", [None, 8])
def test_full_logits_are_never_stored(stride):
    values, mask = sample(60, (33, 33), (257, 257))
    logits = Logits(smooth(values.detach()), (257, 257), stride)
    with PeakElements() as largest:
        CrossEntropy(None, 0.1)(logits._replace(values=values), mask).backward()
    assert largest.elements <= 257 * 257 * 60 / 4
    with PeakElements() as largest:
        logits.classes()
    assert largest.elements <= 257 * 257 * 60 / 4


def smooth(values):
    """Logits of regions, in which most neighbours have the same argmax."""
    return F.interpolate(values[..., :3, :3].float(), values.shape[-2:], mode="bicubic").to(values.dtype)


@cases
@pytest.mark.parametrize("kind", ["noise", "regions", "ties"])
def test_classes_equal_the_argmax_of_full_logits(cells, size, stride, classes, band, kind, monkeypatch):
    set_band(monkeypatch, band)
    values = sample(classes, cells, size)[0].detach()
    if kind != "noise":
        values = smooth(values)
    if kind == "ties":
        values = values.round()
    for other in (values, values.bfloat16(), values.to(memory_format=torch.channels_last)):
        logits = Logits(other, size, stride)
        found, full = logits.classes(), logits.full()
        assert found.dtype == torch.uint8
        if min(size) > 64 and other.is_contiguous():
            assert torch.equal(found, full.argmax(1).to(torch.uint8))
        # torch's kernels for tiny maps and for channels_last round differently, which may decide between equal logits.
        gap = full.amax(1) - full.gather(1, found.long()[:, None])[:, 0]
        assert gap.max() <= 1e-6 * full.abs().max()


def test_the_first_of_classes_that_are_equal_after_rounding_is_returned(monkeypatch):
    set_band(monkeypatch, BANDS[1])
    best = torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    below = best.nextafter(torch.tensor(-torch.inf))
    below[..., 10:] -= 1
    logits = Logits(torch.cat([below - 1, below, best, below - 1], 1), (317, 317), None)
    expected = logits.full().argmax(1)
    assert (expected == 1).any()
    assert torch.equal(logits.classes(), expected.to(torch.uint8))


def test_logits_that_are_not_finite_give_a_class(monkeypatch):
    set_band(monkeypatch, BANDS[1])
    values = smooth(torch.randn(1, 5, 40, 40))
    for bad in (torch.nan, torch.inf, -torch.inf):
        values[0, 1, 20, 20] = bad
        for size in ((317, 317), (40, 40)):
            assert Logits(values, size, None).classes().max() < 5
