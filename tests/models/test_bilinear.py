"""The two cells of each pixel against torch's resizing."""

import pytest
import torch

from segframe.models.logits import resize
from segframe.models.ops.bilinear import axis, matrix

CPU = torch.device("cpu")


@pytest.mark.parametrize("aligned_stride", [None, 4, 8])
@pytest.mark.parametrize(("cells", "pixels"), [(1, 1), (1, 9), (5, 17), (9, 65), (17, 100), (12, 77), (33, 33)])
def test_resizing_is_torchs(cells, pixels, aligned_stride):
    generator = torch.Generator().manual_seed(cells)
    x = torch.randn(2, 3, cells, cells + 2, generator=generator)
    size = (pixels, pixels + 5)
    rows = matrix(size[0], cells, aligned_stride, CPU)
    columns = matrix(size[1], cells + 2, aligned_stride, CPU)
    torch.testing.assert_close(rows @ x @ columns.T, resize(x, size, aligned_stride))
    low, high, share = axis(size[0], cells, aligned_stride, CPU)
    assert ((high - low) <= 1).all()
    assert (low.diff() >= 0).all()
    assert 0 <= share.min() <= share.max() <= 1
