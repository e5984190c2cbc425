"""What the machine refuses ends in one sentence with a cure."""

import errno
import multiprocessing
import os
import signal

import pytest
import torch

from segframe.data.datamodule import Loader, image_loader
from segframe.data.datasets.shapes import Shapes
from segframe.errors import UserError, translate_errors
from segframe.preemption import SIGNALS


class Killing(Shapes):
    """Its fourth sample kills who reads it."""

    def read(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def test_a_worker_that_dies_names_its_sample():
    dataset = Killing(split="val", size=32, num_images={"val": 8})
    sentence = r"exited unexpectedly while reading val_0003.*data.num_workers=0"
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(UserError, match=sentence), translate_errors(dataset):
        list(image_loader(dataset, 2))
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_worker_whose_connection_breaks_before_its_death_is_told():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(UserError, match=r"^a worker of the loader exited unexpectedly: with"), translate_errors():
        ours.recv()
    with pytest.raises(ConnectionError), translate_errors():  # somebody else's
        raise ConnectionResetError


class Told(Shapes):
    """Its samples tell which signals a worker is deaf to."""

    def read(self, index):
        assert set(SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return super().read(index)


def test_workers_begin_deaf_to_the_signals_that_may_reach_all_processes():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    dataset = Told(split="val", size=32, num_images={"val": 2})
    assert len(list(Loader(dataset, num_workers=1, multiprocessing_context="fork"))) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_batch_that_cannot_be_sent_is_told(monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/pymp")

    monkeypatch.setattr("multiprocessing.util.get_temp_dir", full)
    loader = image_loader(Shapes(split="val", size=32, num_images={"val": 4}), 2)
    with pytest.raises(UserError, match=r"^a data loading worker cannot send a batch: .*No space .*'/tmp/pymp'; "):
        list(loader)
    loader._iterator._shutdown_workers()  # the garbage collector would wait for them in vain


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 8 GiB"),
            r"the GPU's memory is full \(2.50 GiB more were asked\): lower data.batch_size",
        ),
        (MemoryError(), "the machine's memory is full: lower data.batch_size"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
            "the machine's memory is full: .*trainer.activation_checkpointing=true",
        ),
        (
            RuntimeError("adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set"),
            "deterministic=true: this device has no adaptive_max_pool2d_backward_cuda",
        ),
        (
            RuntimeError("Given input size: (256x1x1). Calculated output size: (256x0x0). Output size is too small"),
            r"too small for this network \(Given input size: \(256x1x1\).*data.crop_size",
        ),
        (
            ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 8, 1, 1])"),
            "too small for this network .*data.batch_size above 1",
        ),
        (
            RuntimeError("Pin memory thread exited unexpectedly"),
            "a worker of the loader exited unexpectedly: with data.num_workers=0",
        ),
    ],
)
def test_what_torch_says_is_told_with_a_cure(error, sentence):
    with pytest.raises(UserError, match=sentence), translate_errors():
        raise error


def test_the_rest_stays_as_it_is():
    with pytest.raises(RuntimeError, match="a bug"), translate_errors():
        raise RuntimeError("a bug")


def test_memory_that_there_is_not():
    with pytest.raises(UserError, match="the machine's memory is full"), translate_errors():
        torch.empty(1 << 60, dtype=torch.uint8)
