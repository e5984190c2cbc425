"""Batches of validation images: shares of several devices, sizes, limits."""

import random

import pytest
import torch
from dataset_files import put_pair
from PIL import Image

from segframe import distributed
from segframe.data.datasets.folder import Folder
from segframe.data.image_batches import device_share, image_batches, join_images, window_size

SIZES = [(20, 30), (30, 20), (20, 30), (25, 25), (20, 30), (30, 20), (20, 30)] * 14


def folder(tmp_path, sizes):
    """A data set whose images have the given sizes (height, width) in order."""
    for index, (height, width) in enumerate(sizes):
        put_pair(tmp_path, f"{index:03}", "val")
        for path in tmp_path.glob(f"*/val/{index:03}.*"):
            mode = "RGB" if "images" in path.parts else "L"
            Image.new(mode, (width, height), index if mode == "L" else (index, 0, 0)).save(path)
    return Folder(tmp_path, "val", classes=[str(index) for index in range(len(sizes))])


@pytest.mark.parametrize("world", [1, 2, 3, 8, 16, 17, 64])
def test_every_image_belongs_to_one_device_and_each_has_some(world, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: world)
    for total in {world, world + 1, 5 * world, 100 * world + 7, *random.Random(world).sample(range(world, 3000), 5)}:
        shares = [device_share(total, rank) for rank in range(world)]
        assert sorted(index for share in shares for index in share) == list(range(total))
        assert all(share == sorted(share) and share for share in shares)
        assert max(map(len, shares)) - min(map(len, shares)) <= window_size(total)


def batches_of(dataset, at_once, limit=None):
    return [
        [index for image in batch for index in image["index"]]
        for batch in image_batches(dataset, 0, False, at_once, limit)
    ]


def test_batches_have_one_size_and_are_the_same_for_any_number_of_devices(tmp_path, monkeypatch):
    dataset = folder(tmp_path, SIZES)
    window = window_size(len(dataset))
    assert window == 3
    found = batches_of(dataset, lambda size: 2)
    assert sorted(index for batch in found for index in batch) == list(range(len(SIZES)))
    for batch in found:
        assert len({SIZES[index] for index in batch}) == 1
        assert len({index // window for index in batch}) == 1
        assert len(batch) <= 2
    windows = [SIZES[first : first + window] for first in range(0, len(SIZES), window)]
    pairs = sum(sizes.count(size) // 2 for sizes in windows for size in set(sizes))
    assert sum(len(batch) == 2 for batch in found) == pairs > 5
    assert all(len(batch) == 1 for batch in batches_of(dataset, lambda size: 2 if size == (30, 20) else 1)[:6])
    shared = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "world", lambda: 2)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        loader = image_batches(dataset, 0, False, lambda size: 2)
        assert len(loader) == len(loader.indices)
        shared += batches_of(dataset, lambda size: 2)
    assert sorted(shared) == sorted(found)


def test_a_limit_is_a_number_or_a_share_of_the_images(tmp_path):
    dataset = folder(tmp_path, SIZES[:10])
    for limit, number in ((None, 10), (1, 1), (4, 4), (99, 10), (1.0, 10), (0.25, 3), (0.01, 1)):
        batches = batches_of(dataset, lambda size: 4, limit)
        assert [index for batch in batches for index in batch] == list(range(number))


def test_images_are_joined_in_order(tmp_path):
    dataset = folder(tmp_path, [(20, 30)] * 96)
    loader = image_batches(dataset, 0, False, lambda size: 3)
    batch = next(iter(loader))
    joined = join_images(batch, torch.device("cpu"))
    assert joined["mask"][:, 0, 0].tolist() == joined["index"] == [0, 1, 2]
    assert (joined["image"][:, 0, 0, 0] - torch.arange(3)).abs().max() <= 2  # JPEG
    assert joined["name"] == ["000", "001", "002"]
    assert joined["image"].is_contiguous(memory_format=torch.channels_last)
