"""Checks of the Triton kernels in Triton's interpreter, on the CPU, against PyTorch in float64 at full size.

    TRITON_INTERPRET=1 python tests/models/interpreted_kernels.py 0 100

checks random cases of the seeds 0 ... 99. `check(case, seed)` takes a case of one's own.
"""

import os
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import NamedTuple

# Its __init__ loads every part of every network, which takes longer than the checks.
PACKAGE = Path(__file__).parents[2] / "segframe"
sys.path.insert(0, str(PACKAGE.parent))
sys.modules["segframe.models"] = types.ModuleType("segframe.models")
sys.modules["segframe.models"].__path__ = [str(PACKAGE / "models")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from segframe.models.ops import kernels  # noqa: E402
from segframe.models.ops.bilinear import resize  # noqa: E402
from segframe.models.ops.targets import Targets  # noqa: E402

FLOAT32 = 1e-5
"""Largest error of float32, most of it of positions."""
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""Relative error of gradients in the logits' type; the interpreter cuts digits off, a GPU rounds."""


class Case(NamedTuple):
    """A shape and the options of the operators."""

    images: int
    classes: int
    cells: tuple[int, int]
    size: tuple[int, int]
    aligned_stride: int | None = None
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    weighted: bool = False
    smoothing: float = 0.0
    void: float = 0.2
    """Share of void pixels."""


CASES = [
    Case(1, 5, (3, 3), (7, 11), weighted=True, smoothing=0.1),
    Case(1, 2, (3, 16), (50, 17)),  # several programs, along a row of cells and along a column
    Case(1, 9, (2, 3), (7, 7), aligned_stride=4, dtype=torch.bfloat16, channels_last=True),  # beyond the last cell; cut
    Case(2, 17, (5, 6), (5, 6), aligned_stride=4, dtype=torch.float16, channels_last=True, smoothing=0.2),
    Case(1, 4, (1, 2), (3, 3), void=1.0, weighted=True, smoothing=0.1),
]


def random_case(seed: int) -> Case:
    """Return a case drawn with a seed: up to 255 classes, in few cells where there are many."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    classes = draw(1, 2, 3, 8, 19, draw(*range(1, 256)))
    most = 3 if classes > 20 else 9
    cells = (draw(*range(1, most)), draw(1, 2, most, draw(1, 40)) if classes < 9 else draw(*range(1, most)))
    size = cells if draw(*range(5)) == 0 else (draw(*range(1, 4 * most)), draw(*range(1, 4 * most)))
    return Case(
        images=draw(1, 2),
        classes=classes,
        cells=cells,
        size=size,
        aligned_stride=draw(None, 1, 2, 4, 8),
        dtype=draw(*ROUNDING),
        channels_last=draw(False, True),
        weighted=draw(False, True),
        smoothing=draw(0.0, 0.1, 0.3),
        void=draw(0.0, 0.2, 0.9),
    )


def check(case: Case, seed: int) -> None:
    """Raise AssertionError where loss, weight, gradient, classes or counts differ from the reference's."""
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    values = 4 * torch.randn(case.images, case.classes, *case.cells, generator=generator)
    values = values.to(case.dtype, memory_format=layout)
    mask = torch.randint(0, case.classes, (case.images, *case.size), generator=generator).to(torch.uint8)
    mask[torch.rand(mask.shape, generator=generator) < case.void] = 255
    weights = 0.1 + torch.rand(case.classes, generator=generator) if case.weighted else None
    operands = case.size, case.aligned_stride, Targets(mask, weights, case.smoothing)

    found = values.clone(memory_format=torch.preserve_format).requires_grad_()
    total, weight = kernels.cross_entropy(found, *operands)
    (1.7 * total).backward()
    exact = values.double().requires_grad_()
    full = exact if case.cells == case.size else resize(exact, case.size, case.aligned_stride)
    wide = None if weights is None else weights.double()
    settings = {"ignore_index": 255, "reduction": "sum", "label_smoothing": case.smoothing}
    expected = F.cross_entropy(full, mask.long(), wide, **settings)
    (1.7 * expected).backward()
    each = torch.ones(case.classes) if weights is None else weights
    counted = each.double()[mask[mask < case.classes].long()].sum()
    close(weight, counted, FLOAT32, counted)
    close(total, expected, FLOAT32, expected + counted)
    assert found.grad.dtype == case.dtype
    assert found.grad.is_contiguous(memory_format=layout)
    # Of single pixels' gradients, which may cancel out in a cell.
    pixels = max(1, full[0, 0].numel() / values[0, 0].numel()) * each.max()
    assert ((found.grad - exact.grad).abs() <= FLOAT32 * pixels + ROUNDING[case.dtype] * exact.grad.abs()).all()
    with torch.no_grad():
        assert kernels.cross_entropy(values, *operands)[0] == total

    classes = kernels.classes(values, case.size, case.aligned_stride)
    assert (classes.dtype, classes.shape) == (torch.uint8, mask.shape)
    chosen = full.gather(1, classes.long()[:, None])[:, 0]
    close(chosen, full.amax(1), FLOAT32, values.abs().max())
    matrix = torch.ones(case.classes, case.classes, dtype=torch.int64)
    kernels.count_pairs(classes, mask, matrix)
    pairs = mask.long() * case.classes + classes
    counts = torch.bincount(pairs[mask < case.classes], minlength=case.classes**2)
    assert torch.equal(matrix - 1, counts.view_as(matrix))


def close(found: torch.Tensor, expected: torch.Tensor, error: float, scale: torch.Tensor) -> None:
    """Assert that values differ by at most `error` of a scale."""
    difference = (found.detach() - expected.detach()).abs().max()
    assert difference <= error * scale, f"{difference} of {scale}"


def check_not_finite() -> None:
    """Logits of minus infinity are a class that never occurs; NaN shows in the loss."""
    values = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9, dtype=torch.uint8).view(1, 3, 3) % 2 + 1
    values[:, 0] = -torch.inf
    total, _ = kernels.cross_entropy(values, (3, 3), None, Targets(mask, None, 0.0))
    close(total, F.cross_entropy(values, mask.long(), reduction="sum"), FLOAT32, total)
    assert (kernels.classes(values, (3, 3), None) > 0).all()
    values[0, 2, 1, 1] = torch.nan
    for size in ((3, 3), (5, 4)):
        assert kernels.cross_entropy(values, size, None, Targets(mask.new_ones(1, *size), None, 0.0))[0].isnan()
        assert kernels.classes(values, size, None).max() < 3


def check_ties() -> None:
    """Of classes with equal logits the first is the prediction."""
    values = torch.tensor([-1.0, 2.0, 2.0, 0.0, 2.0])[None, :, None, None].expand(1, 5, 2, 2)
    for size in ((2, 2), (3, 5)):
        assert (kernels.classes(values, size, None) == 1).all()


def check_views() -> None:
    """Parts of larger tensors."""
    memory = torch.randn(1, 4, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = memory.detach().double().requires_grad_()
    mask = (torch.arange(30, dtype=torch.uint8).view(1, 5, 6) % 4)[:, 1:, ::2]
    values, wide = memory[:, 1:, 2:4, 1:4], exact[:, 1:, 2:4, 1:4]
    for size in ((2, 3), (4, 3)):
        part = mask[:, : size[0]]
        total, _ = kernels.cross_entropy(values, size, None, Targets(part, None, 0.0))
        known = part.long().where(part < 3, 255)
        expected = F.cross_entropy(resize(wide, size, None), known, ignore_index=255, reduction="sum")
        close(total, expected, FLOAT32, expected)
        gradients = torch.autograd.grad(total, memory)[0], torch.autograd.grad(expected, exact)[0]
        close(*gradients, FLOAT32, torch.ones(()))


def main() -> None:
    """Check CASES, and random cases of the seeds from the first argument up to the second."""
    warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)  # of values that are not stored
    first, last = map(int, sys.argv[1:])
    failures = 0
    for seed, case in [*((0, case) for case in CASES), *((seed, random_case(seed)) for seed in range(first, last))]:
        try:
            check(case, seed)
        except AssertionError:
            failures += 1
            print(f"seed {seed}, {case}:\n{traceback.format_exc()}")
    check_not_finite()
    check_ties()
    check_views()
    sys.exit(f"{failures} cases failed" if failures else None)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1"
    main()
