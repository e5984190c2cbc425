"""Runtime failures that a user can avoid are translated into one line; bugs keep their traceback."""

import multiprocessing

import pytest
import torch

from segframe.errors import UserError, translate_errors


def test_a_worker_whose_connection_breaks_before_its_death_is_reported():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(UserError, match="worker exited unexpectedly"), translate_errors():
        ours.recv()
    with pytest.raises(ConnectionError), translate_errors():  # of another connection
        raise ConnectionResetError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 8 GiB"),
            r"the GPU's memory is full \(2.50 GiB more were asked\): lower data.batch_size",
        ),
        (MemoryError(), "the machine's memory is full: lower data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "the machine's memory is full: .*activation_check"),
        (
            RuntimeError("adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set"),
            "deterministic=true: adaptive_max_pool2d_backward_cuda has no deterministic form",
        ),
        (
            RuntimeError("Given input size: (256x1x1). Calculated output size: (256x0x0). Output size is too small"),
            r"too small for this network \(Given input size: \(256x1x1\).*data.crop_size",
        ),
        (ValueError("Expected more than 1 value per channel"), "too small for this network .*data.batch_size above 1"),
        (RuntimeError("Pin memory thread exited unexpectedly"), "worker exited unexpectedly: data.num_workers=0"),
    ],
)
def test_failures_of_libraries(error, message):
    with pytest.raises(UserError, match=message), translate_errors():
        raise error


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="a bug"), translate_errors():
        raise RuntimeError("a bug")


def test_too_large_a_tensor():
    with pytest.raises(UserError, match="the machine's memory is full"), translate_errors():
        torch.empty(1 << 60, dtype=torch.uint8)
