"""The stream of training batches: complete epochs, the same for any number of workers and after any restart."""

from itertools import chain

import pytest
import torch
from dataset_files import check_error

from segframe.data import DataModule, RandomScaleCrop, Shapes, Transform
from segframe.data.loader import collate
from segframe.data.sampling import BatchSampler
from segframe.errors import UserError


@pytest.mark.parametrize(("num_samples", "batch_size"), [(10, 4), (3, 8), (1, 1)])
def test_every_epoch_contains_every_sample_once(num_samples, batch_size):
    sampler = BatchSampler(num_samples, batch_size, 7, seed=0)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [batch_size] * 7
    sampler.start = 4
    assert list(sampler) == batches[4:]
    assert len(sampler) == 7
    stream = list(chain(*batches))
    assert len(set(stream)) == len(stream)
    for epoch in range(len(stream) // num_samples):
        part = stream[epoch * num_samples : (epoch + 1) * num_samples]
        assert {key[0] for key in part} == {epoch}
        assert sorted(key[1] for key in part) == list(range(num_samples))


def test_the_order_depends_on_seed_and_epoch():
    first, other = list(BatchSampler(50, 50, 2, seed=0)), list(BatchSampler(50, 50, 2, seed=1))
    assert first != other
    assert [index for _, index in first[0]] != [index for _, index in first[1]]


def make_module(num_workers, **changes):
    transform = Transform([RandomScaleCrop(32)])
    settings = {"batch_size": 3, "num_batches": 5, "seed": 7} | changes
    train = Shapes(None, "train", transform, seed=7, size=48, num_images={"train": 4})
    val = Shapes(None, "val", size=48, num_images={"val": 3})
    return DataModule(train, val, num_workers=num_workers, **settings)


def test_batches_are_the_same_for_any_number_of_workers_and_after_a_restart():
    expected = list(make_module(0).train_dataloader())
    loaded_by_workers = list(make_module(2).train_dataloader())
    loader = make_module(0).train_dataloader()
    loader.batch_sampler.start = 2
    resumed = list(loader)
    assert len(expected) == len(loaded_by_workers) == 5
    for first, second in [*zip(expected, loaded_by_workers, strict=True), *zip(expected[2:], resumed, strict=True)]:
        assert first["name"] == second["name"]
        assert (first["image"] == second["image"]).all()
        assert (first["mask"] == second["mask"]).all()
        assert second["image"].is_contiguous(memory_format=torch.channels_last)
    # Sample 0 of epochs 0 and 1 are augmented differently.
    dataset = make_module(0).train
    assert not (dataset[0, 0]["image"] == dataset[1, 0]["image"]).all()
    assert (dataset[0]["image"] == dataset[0, 0]["image"]).all()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_epochs_cut_the_stream_of_the_run(num_workers):
    names = [batch["name"] for batch in make_module(0).train_dataloader()]
    loader = make_module(num_workers, epoch_batches=2).train_dataloader()
    assert len(loader) == 2
    assert [[batch["name"] for batch in loader] for _ in range(3)] == [names[:2], names[2:4], names[4:]]
    resumed = make_module(num_workers, epoch_batches=2).train_dataloader()
    resumed.batch_sampler.start = 1
    assert [[batch["name"] for batch in resumed] for _ in range(2)] == [names[1:2], names[2:4]]


def test_validation_images_come_one_by_one_in_order():
    batches = list(make_module(0).val_dataloader())
    assert [[image["name"] for image in batch] for batch in batches] == [[["val_0000"]], [["val_0001"]], [["val_0002"]]]


def test_errors_in_a_worker_are_one_sentence():
    module = make_module(1, num_batches=1)
    module.train.read = lambda index: (_ for _ in ()).throw(UserError("x.png is bad"))
    loader = module.train_dataloader()
    with pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value) == "x.png is bad"
    loader._stream._shutdown_workers()  # the garbage collector would wait for them in vain


def test_images_of_different_sizes_make_no_batch():
    items = [Shapes(None, "val", size=size)[0] for size in (48, 64)]
    check_error(lambda: collate(items), "(48, 48), (64, 64)", "crop")
