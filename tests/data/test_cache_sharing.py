"""The cache of decoded samples in several processes: what one has stored, the others need not read."""

import multiprocessing
import os
import socket
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from segframe import distributed
from segframe.data import Folder, cache_setup
from segframe.data.cache_setup import Store, add_caches
from segframe.data.image_batches import image_batches
from segframe.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes share memory on Linux only")


@pytest.fixture
def root(tmp_path):
    """Six images with masks."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder / "val").mkdir(parents=True)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"images/val/{index}.png")
        Image.fromarray(rng.integers(0, 3, (20, 30), np.uint8)).save(tmp_path / f"masks/val/{index}.png")
    return tmp_path


def make(root):
    return Folder(root, "val", classes=["a", "b", "c"])


def same(first, second):
    return torch.equal(first["image"], second["image"]) and torch.equal(first["mask"], second["mask"])


def run_together(function, *args):
    """Call a function in two connected processes; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=connected, args=(str(rank), str(port), function, *args)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


def connected(rank, port, function, *args):
    torch.set_num_threads(1)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    distributed.join()
    function(*args)
    distributed.leave()


def memories():
    """The inodes of the shared memories that this process maps, and the number of their open descriptors."""
    with open("/proc/self/maps") as maps:
        mapped = {line.split()[4] for line in maps if "memfd:segframe" in line}
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return sorted(mapped), sum("memfd:segframe" in link for link in links)


def use_caches(root):
    """Rank 0 stores samples 0 and 2, the workers of rank 1 store 1 and 3; each reads all four without the files."""
    rank, plain = distributed.rank(), make(root)
    expected = [plain[index] for index in range(4)]
    for kind in ("ram", "disk"):
        dataset = make(root)
        free = Store(dataset).size if rank == 0 else 0  # the one memory counts once
        cache_setup.free_memory = partial(int, free)
        add_caches([dataset], kind, None)
        if rank == 0:
            dataset[0], dataset[2]
        else:
            dataset.samples = dataset.samples[:4]
            list(image_batches(dataset, 2, pin_memory=False))  # of the images of this rank
        distributed.wait_for_all()
        dataset._load = None
        assert all(same(dataset[index], expected[index]) for index in range(4))
        assert dataset.cache.index["filled"].tolist() == [1, 1, 1, 1, 0, 0]
        if kind == "ram":
            [first, second] = distributed.gather(memories())
            assert first == second
            assert len(first[0]) == first[1] == 1  # no descriptor but the mapping's own
        distributed.wait_for_all()
        del dataset


def test_processes_share_the_cache(root):
    assert run_together(use_caches, root) == [0, 0]
    assert len(list((root / ".segframe").iterdir())) == 1


def replace_files(root):
    """Two machines with one disk see no file there, and each makes one."""
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    Store.missing = lambda store, file: 0
    Store.is_in = lambda store, file: distributed.wait_for_all()  # is None: both look before one writes
    dataset = make(root)
    add_caches([dataset], "disk", None)
    [first, second] = distributed.gather(os.fstat(dataset.cache.descriptor).st_ino)
    assert first == second


def test_machines_share_the_last_file(root):
    assert run_together(replace_files, root) == [0, 0]


def test_without_shared_memory(root, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"data\.cache=ram.*set data\.cache=disk"):
        add_caches([make(root)], "ram", None)
