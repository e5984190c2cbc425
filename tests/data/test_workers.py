"""Data loading workers: death, signals, batches that cannot be sent."""

import errno
import os
import signal

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from segframe.config import machine
from segframe.data import Shapes
from segframe.data.image_batches import image_loader
from segframe.data.loader import Loader, loader_settings
from segframe.errors import UserError, translate_errors
from segframe.preemption import SIGNALS


class KillingShapes(Shapes):
    def read(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def test_death_of_a_worker(monkeypatch):
    usual = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", lambda self: usual(self, timeout=0.1))  # not 5
    dataset = KillingShapes(split="val", size=32, num_images={"val": 8})
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(UserError, match=r"worker exited unexpectedly.*data.num_workers=0"), translate_errors():
        list(image_loader(dataset, 2))
    assert signal.getsignal(signal.SIGCHLD) is handler


class FloatShapes(Shapes):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item | {"image": item["image"].float().contiguous() / 3}  # not channels last


@pytest.mark.parametrize("kind", [Shapes, FloatShapes])
def test_workers_write_batches_into_shared_memory(kind):
    dataset = kind(split="val", size=32, num_images={"val": 6})
    usual, shared = (
        list(Loader(dataset, batch_size=4, **loader_settings(workers, pin_memory=False))) for workers in (0, 1)
    )
    for expected, found in zip(usual, shared, strict=True):
        for name in ("image", "mask"):
            assert found[name].is_shared()
            assert found[name].dtype == expected[name].dtype
            assert found[name].stride() == expected[name].stride()
            assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("cores", "devices", "for_cpu", "for_gpu"),
    [(1, 1, 1, 1), (2, 1, 2, 1), (8, 1, 8, 7), (16, 1, 8, 15), (64, 1, 8, 16), (64, 8, 8, 7), (4, 8, 1, 1)],
)
def test_default_number_of_workers(monkeypatch, cores, devices, for_cpu, for_gpu):
    monkeypatch.setattr("segframe.data.loader.num_cores", lambda: cores)
    monkeypatch.setattr("segframe.distributed.local_world", lambda: devices)
    assert loader_settings(None, pin_memory=False)["num_workers"] == for_cpu
    assert loader_settings(None, pin_memory=True)["num_workers"] == for_gpu


def test_cores_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    cores = machine.num_cores()
    for limit, expected in (("max 100000", cores), ("50000 100000", 1), ("900000000 100000", cores)):
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
        assert machine.num_cores() == expected


class BlockedSignalsShapes(Shapes):
    def read(self, index):
        assert set(SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return super().read(index)


def test_workers_start_with_blocked_signals():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    dataset = BlockedSignalsShapes(split="val", size=32, num_images={"val": 2})
    assert len(list(Loader(dataset, num_workers=1, multiprocessing_context="fork"))) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_batches_that_cannot_be_sent(monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/pymp")

    monkeypatch.setattr("multiprocessing.util.get_temp_dir", full)
    loader = image_loader(Shapes(split="val", size=32, num_images={"val": 4}), 2)
    with pytest.raises(UserError, match=r"^a data loading worker cannot send a batch: .*No space .*'/tmp/pymp'; "):
        list(loader)
    loader._iterator._shutdown_workers()  # the garbage collector would wait for them in vain
