"""The cache of decoded samples in several processes: what one has stored, the others need not read."""

import os
import sys
from functools import partial

import pytest
from processes import connected, fork
from test_cache import same

from segframe import distributed
from segframe.data import Folder, cache_setup
from segframe.data.cache_setup import Store, add_caches
from segframe.data.image_batches import image_batches
from segframe.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes share memory on Linux only")


@pytest.fixture
def root(photos, monkeypatch):
    """Six images with masks, in a folder of which processes write their output."""
    monkeypatch.chdir(photos.parent)
    return photos


def make(root):
    return Folder(root, "train", classes=["a", "b", "c"])


def run_together(function, *args):
    """Call a function in two connected processes; returns how they ended, but for those that went well."""
    return [ended for ended in fork(2, connected, function, *args) if ended.code]


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
    assert run_together(use_caches, root) == []
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
    assert run_together(replace_files, root) == []


def test_without_shared_memory(root, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"data\.cache=ram.*set data\.cache=disk"):
        add_caches([make(root)], "ram", None)
