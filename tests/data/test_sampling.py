"""The stream of batches: complete epochs, the same for any number of workers and after any restart."""

from itertools import chain

import pytest
import torch
from PIL import Image

from segframe.data import DataModule, Folder, RandomScaleCrop, Shapes, Transform
from segframe.data.datamodule import collate
from segframe.data.sampling import BatchSampler
from segframe.errors import UserError


@pytest.mark.parametrize(("num_samples", "batch_size"), [(10, 4), (3, 8), (8, 4), (1, 1)])
def test_every_epoch_holds_every_sample_once(num_samples, batch_size):
    batches = list(BatchSampler(num_samples, batch_size, 7, seed=0))
    assert [len(batch) for batch in batches] == [batch_size] * 7
    stream = list(chain(*batches))
    assert len(set(stream)) == len(stream)
    for epoch in range(len(stream) // num_samples):
        part = stream[epoch * num_samples : (epoch + 1) * num_samples]
        assert {key[0] for key in part} == {epoch}
        assert sorted(key[1] for key in part) == list(range(num_samples))


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_a_start_skips_batches_and_changes_none(start):
    sampler = BatchSampler(10, 4, 7, seed=0)
    whole = list(sampler)
    sampler.start = start
    assert list(sampler) == whole[start:]
    assert len(sampler) == 7


def test_the_order_depends_on_seed_and_epoch():
    first, other = list(BatchSampler(50, 50, 2, seed=0)), list(BatchSampler(50, 50, 2, seed=1))
    assert first != other
    assert [index for _, index in first[0]] != [index for _, index in first[1]]


def module(num_workers, **changes):
    transform = Transform([RandomScaleCrop(32)])
    settings = {"batch_size": 3, "num_batches": 5, "seed": 7} | changes
    train = Shapes(None, "train", transform, seed=7, size=48, num_images={"train": 4})
    return DataModule(train, Shapes(None, "val", size=48), num_workers=num_workers, **settings)


def test_the_stream_is_the_same_for_any_number_of_workers_and_after_a_restart():
    lock_run_dir = list(module(0).train_dataloader())
    together = list(module(2).train_dataloader())
    loader = module(0).train_dataloader()
    loader.load_state_dict({"batches": 2})
    resumed = list(loader)
    assert len(lock_run_dir) == len(together) == 5
    for first, second in [*zip(lock_run_dir, together, strict=True), *zip(lock_run_dir[2:], resumed, strict=True)]:
        assert first["name"] == second["name"]
        assert (first["image"] == second["image"]).all()
        assert (first["mask"] == second["mask"]).all()
        assert second["image"].is_contiguous(memory_format=torch.channels_last)
    # Sample 0 of epoch 0 and of epoch 1 are augmented differently.
    dataset = module(0).train
    assert not (dataset[0, 0]["image"] == dataset[1, 0]["image"]).all()
    assert (dataset[0]["image"] == dataset[0, 0]["image"]).all()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_loader_counts_what_it_hands_out(num_workers):
    loader = module(num_workers).train_dataloader()
    assert len(loader) == 5
    assert loader.state_dict() == {"batches": 0}
    batches = iter(loader)
    next(batches)
    next(batches)
    assert loader.state_dict() == {"batches": 2}
    restarted = module(num_workers).train_dataloader()
    restarted.load_state_dict(loader.state_dict())
    assert restarted.state_dict() == {"batches": 2}
    for count, _ in enumerate(restarted, start=3):
        assert restarted.state_dict() == {"batches": count}
    assert restarted.state_dict() == {"batches": 5}
    assert len(restarted) == 5


def test_validation_is_single_in_order_and_at_the_images_own_size():
    loader = module(0).val_dataloader()
    names = []
    for batch in loader:
        assert batch["image"].shape == (1, 3, 48, 48)
        assert batch["mask"].shape == (1, 48, 48)
        names += batch["name"]
    assert names == [f"val_{index:04}" for index in range(100)]


def test_batches_of_different_sizes_are_explained():
    items = [Shapes(None, "val", size=size)[0] for size in (48, 64)]
    with pytest.raises(UserError, match=r"\(48, 48\), \(64, 64\).*crop"):
        collate(items)


def test_an_error_in_a_worker_is_still_one_sentence():
    loader = module(1, num_batches=1)
    loader.train.transform = None
    loader.train.read = lambda index: (_ for _ in ()).throw(UserError("x.png is bad"))
    with pytest.raises(UserError) as error:
        list(loader.train_dataloader())
    assert str(error.value) == "x.png is bad"


def test_mistakes(tmp_path):
    assert 1 <= module(None).train_dataloader().num_workers <= 8
    for part in ("images", "masks"):
        (tmp_path / part / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images/train/a.png")
    Image.new("L", (8, 8)).save(tmp_path / "masks/train/a.png")
    folder = Folder(tmp_path, "train", classes=["x", "y"])
    with pytest.raises(UserError, match="training has the classes"):
        DataModule(folder, Shapes(None, "val"), batch_size=1, num_workers=0, num_batches=1, seed=0)
