"""The cache of decoded samples: same items, shared between workers and runs, invalidated when files change."""

import mmap
import os
import pickle
from itertools import count

import numpy as np
import pytest
import torch
from conftest import composed
from dataset_files import check_error
from PIL import Image

from segframe.data import ColorMatrixJitter, DataModule, Folder, RandomScaleCrop, Transform, cache_setup
from segframe.data.build import build_datasets
from segframe.data.cache_setup import add_caches

SIZES = ((40, 52), (64, 33), (35, 35), (50, 80))
CLASSES = ["a", "b", "c"]
both_kinds = pytest.mark.parametrize("kind", ["ram", "disk"])


@pytest.fixture
def root(tmp_path):
    """Four images in train, one of them rotated by EXIF, and one in val."""
    rng = np.random.default_rng(0)
    for split, sizes in (("train", SIZES), ("val", SIZES[:1])):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for index, size in enumerate(sizes):
            exif = Image.Exif()
            exif[0x0112] = 6 if index == 1 else 1
            image, mask = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 3, size, np.uint8)
            Image.fromarray(image).save(tmp_path / "data/images" / split / f"{index}.jpg", exif=exif)
            Image.fromarray(mask).save(tmp_path / "data/masks" / split / f"{index}.png", exif=exif)
    return tmp_path / "data"


def make(root, kind=None, split="train", transform=True, folder=None, **settings):
    steps = [RandomScaleCrop(32), ColorMatrixJitter(0.2, 0.2, 0.2, 0.05)]
    dataset = Folder(root, split, Transform(steps) if transform else None, **{"classes": CLASSES} | settings)
    if kind:
        add_caches([dataset], kind, folder)
    return dataset


def forbid_files(dataset):
    """Fail if the dataset reads its files from now on."""
    dataset._load = lambda index: pytest.fail("read from its files")
    return dataset


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in ("image", "mask")) and first["name"] == second["name"]


@both_kinds
@pytest.mark.parametrize("transform", [True, False])
def test_items_are_the_same_as_without_a_cache(root, kind, transform):
    plain, cached = make(root, transform=transform), make(root, kind, transform=transform)
    for epoch in range(3):
        for index in range(4):
            assert same(plain[epoch, index], cached[epoch, index])
        forbid_files(cached)
    cached[0]["image"].zero_()
    assert same(plain[0], cached[0])
    image, mask = cached.read(0)
    assert np.shares_memory(image, cached.read(0)[0])
    assert not image.flags.writeable
    assert not mask.flags.writeable


@both_kinds
def test_workers_share_the_cache(root, kind):
    def batches(dataset, num_workers):
        data = DataModule(dataset, dataset, batch_size=2, num_workers=num_workers, num_batches=6, seed=0)
        return list(data.train_dataloader())

    cached = make(root, kind)
    for first, second in zip(batches(make(root), 0), batches(cached, 2), strict=True):
        assert same(first, second)
    assert cached.cache.index["filled"].all()
    forbid_files(cached)
    assert len(batches(cached, 2)) == 6


def test_later_runs_reuse_the_file(root, tmp_path):
    folder = tmp_path / "elsewhere"
    first = make(root, "disk", folder=str(folder))
    expected = [first[index] for index in range(4)]
    assert [path.suffix for path in folder.iterdir()] == [".cache"]
    again = forbid_files(make(root, "disk", folder=str(folder)))
    assert all(same(expected[index], again[index]) for index in range(4))
    # Simultaneous runs share it.
    first.cache.index["filled"] = 0
    assert not again.cache.index["filled"].any()
    first[1]
    assert again.cache.index["filled"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "settings", [{"label_map": {0: 1, 1: 0}}, {"palette": [[k, k, k] for k in range(3)]}, {"split": "val"}]
)
def test_other_labels_classes_and_splits_have_other_files(root, settings):
    make(root, "disk")[0]
    other = make(root, "disk", **settings)
    assert not other.cache.index["filled"].any()
    assert same(other[0], make(root, **settings)[0])
    assert len(list((root / ".segframe").iterdir())) == 2


@pytest.mark.parametrize(("kind", "size"), [("disk", (20, 20)), ("ram", (400, 500))])
def test_changed_files_are_read_again(root, kind, size):
    """Files of a smaller size, and of one that exceeds the reserved space."""
    dataset = make(root, kind, transform=False)
    before = [dataset[index]["image"] for index in range(4)]
    Image.new("RGB", size[::-1], (200, 0, 0)).save(root / "images/train/0.jpg")
    Image.new("L", size[::-1], 2).save(root / "masks/train/0.png")
    for _ in range(2):
        item = dataset[0]
        assert item["image"].shape == (3, *size)
        assert (item["mask"] == 2).all()
        assert torch.equal(dataset[1]["image"], before[1])
    assert same(make(root, kind, transform=False)[0], item)
    os.remove(root / "masks/train/0.png")
    check_error(lambda: dataset[0], "0.png", "there is no such file")


def test_damaged_cache_files_are_replaced(root):
    expected = make(root, "disk")[0]
    [file] = (root / ".segframe").iterdir()
    for damage in (file.read_bytes()[:5000], b"x" * file.stat().st_size):
        file.write_bytes(damage)
        dataset = make(root, "disk")
        assert not dataset.cache.index["filled"].any()
        assert same(dataset[0], expected)


@both_kinds
def test_build_datasets(root, kind):
    words = ["data=folder", f"data.root={root}", "data.dataset.classes=[a,b,c]", "data.crop_size=32"]
    config = composed(*words, f"data.cache={kind}")
    train, val = build_datasets(config)
    assert train.cache is not val.cache
    assert val[0]["image"].shape == (3, 40, 52)
    assert val.cache.index["filled"].all()
    config.data.val_split = "train"
    train, val = build_datasets(config)
    assert train.cache is val.cache


def test_a_limit_of_memory(root):
    """The first samples are stored, of the training split before the other; the rest is read from the files."""
    words = ["data=folder", f"data.root={root}", "data.dataset.classes=[a,b,c]", "data.crop_size=32", "data.cache=ram"]
    plain = build_datasets(composed(*words[:-1]))
    for kept, limit in ((0, 1e-6), (2, 28.7e-6), (4, 54e-6), (5, 70e-6)):
        limited = build_datasets(composed(*words, f"data.cache_limit={limit}"))
        for _ in range(2):
            for expected, found in zip(plain, limited, strict=True):
                assert all(same(expected[index], found[index]) for index in range(len(expected)))
        assert [int(dataset.cache.index["filled"].sum()) for dataset in limited] == [min(kept, 4), max(0, kept - 4)]
        assert sum(dataset.cache.bytes.size for dataset in limited) <= 1e9 * limit + 2 * mmap.PAGESIZE


class Grey(Folder):
    """Loads images of one channel."""

    def load_image(self, path):
        return super().load_image(path)[..., :1]


@both_kinds
def test_images_of_other_channels_are_not_stored(root, kind):
    dataset = Grey(root, "train", classes=CLASSES)
    add_caches([dataset], kind, None)
    for _ in range(2):
        check_error(lambda: dataset[0], "uint8 of shape (40, 52, 1), but data.channels=3")


def test_mistakes(root, tmp_path, monkeypatch):
    check_error(lambda: build_datasets(composed("data.cache=ram")), "Shapes is generated", "data.cache=null")
    (tmp_path / "file").write_text("")
    check_error(lambda: make(root, "disk", folder=str(tmp_path / "file" / "x")), "data.cache_dir", "file")
    monkeypatch.setattr(cache_setup, "free_memory", lambda: 1000)
    check_error(lambda: make(root, "ram"), "data.cache=ram needs 0.0 GB", "data.cache=disk", "data.cache_limit")
    check_error(lambda: build_datasets(composed("data.cache_limit=2")), "data.cache_limit=2", "data.cache=ram")
    check_error(lambda: add_caches([make(root)], "disk", None, 4), "data.cache_limit=4", "data.cache=ram")
    monkeypatch.setattr(cache_setup.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    check_error(lambda: make(root, "disk"), "0.0 GB more in", "data.cache_dir")


def test_errors_while_filling(root, monkeypatch):
    Image.new("L", (9, 9)).save(root / "masks/train/2.png")
    dataset, calls = make(root, "disk"), count()
    for _ in range(2):
        check_error(lambda: dataset[2], "2.jpg", "2.png 9x9")

    def pwrite(descriptor, data, at):
        if next(calls):
            raise OSError(28, "No space left on device")
        return len(data) // 2

    monkeypatch.setattr(os, "pwrite", pwrite)
    check_error(lambda: dataset[0], "No space left", ".cache")
    assert not dataset.cache.index["filled"].any()


def test_pickled_datasets(root):
    """Spawned workers get pickled datasets."""
    check_error(lambda: pickle.dumps(make(root, "ram", transform=False)), "data.cache=ram", "data.num_workers=0")
    dataset = make(root, "disk", transform=False)
    expected = dataset[0]
    other = forbid_files(pickle.loads(pickle.dumps(dataset)))
    assert same(other[0], expected)
