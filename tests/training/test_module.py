"""The module: one training step, seeds, and the description of its network."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import IMAGES, UNET, composed
from pytorch_lightning import Trainer

from segframe.data.build import RunLength, build_data_module, build_datasets
from segframe.data.image_batches import image_batches, join_images
from segframe.errors import UserError
from segframe.inference.build import build_inference
from segframe.inference.evaluate import evaluate
from segframe.models.build import build_segmenter
from segframe.models.weights import checkpoint
from segframe.training.module import SegmentationModule, better, check_monitor, stored_best

NAN = float("nan")


def built(*words):
    config = composed(*UNET, *words)
    train_set, val_set = build_datasets(config)
    torch.manual_seed(0)
    segmenter = build_segmenter(config, len(train_set.classes))
    data, length = build_data_module(config, train_set, val_set)
    module = SegmentationModule(config, segmenter, train_set, length)
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True)
    return module, data


def test_a_few_images_are_learned_by_heart():
    wide = ("backbone.channels=[16,16,16,16,16]", "head.channels=[16,16,16,16]", "optimizer=adamw", "optimizer.lr=0.01")
    module, data = built(*wide, "transforms=none", "scheduler=constant")
    optimizer = module.configure_optimizers()["optimizer"]
    batch = next(iter(data.train_dataloader()))
    module.train()
    for step in range(40):
        optimizer.zero_grad()
        loss = module.training_step(batch, step)
        loss.backward()
        optimizer.step()
    valid = batch["mask"] != 255
    found = module.segmenter.outputs(batch["image"])["main"].classes()
    assert (found == batch["mask"])[valid].float().mean() > 0.95


def test_dropout_depends_on_seed_and_batch_alone():
    module, data = built("backbone.dropout=0.5")
    batch = next(iter(data.train_dataloader()))
    losses = [module.train().training_step(batch, index).item() for index in (3, 4, 3)]
    assert losses[0] == losses[2] != losses[1]


def test_losses_of_several_outputs_are_weighted():
    losses = {}
    for weights in ("{main: 1.0, aux: 0.0}", "{main: 0.0, aux: 1.0}", "{main: 1.0, aux: 0.5}"):
        module, data = built("aux_head=fcn", f"output_weights={weights}")
        losses[weights] = module.train().training_step(next(iter(data.train_dataloader())), 0).item()
    main, aux, both = losses.values()
    assert both == pytest.approx(main + 0.5 * aux)


def test_the_length_of_a_run_reaches_the_scheduler():
    module, _ = built("trainer.max_steps=7", "trainer.val_every_n_steps=3")
    assert module.length == RunLength(7, 3, 3)
    scheduler = module.configure_optimizers()["lr_scheduler"]
    assert scheduler["interval"] == "step"
    assert scheduler["scheduler"].lr_lambdas[0](7) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (({"input_scales": [0.7]},), "output_weights has no entry scale_100, an output of this network"),
        (({"output_weights.main": -1.0},), "output_weights.main"),
        (({"output_weights.mian": 1.0},), "output_weights.mian is no output of this network; did you mean main?"),
        (({"output_weights.main": 0.0},), "output_weights are all 0"),
    ],
    ids=str,
)
def test_wrong_output_weights(refused, words, message):
    assert message in refused(*words)


def test_a_monitored_class_that_no_mask_shows():
    matrix = torch.tensor([[5, 1], [0, 0]])
    check_monitor("val/iou/a", matrix, ("a", "b"))
    check_monitor("val/miou", matrix, ("a", "b"))
    with pytest.raises(UserError, match=r"monitor=val/iou/b: no validation mask shows b, .* set monitor=val/miou"):
        check_monitor("val/iou/b", matrix, ("a", "b"))


@pytest.mark.parametrize(
    "words",
    [
        ("inference=whole", "inference.batch_size=3"),
        ("inference=sliding_window", "inference.window=24", "inference.mode=fast"),
        ("inference=tta", "inference.scales=[1.0,1.5]"),
        ("inference=tta", "inference.scales=[1.5]", "inference.flip=false"),
        ("inference=shift_and_stitch",),
    ],
)
def test_a_validation_counts_what_evaluate_counts_with_any_inference(words):
    config = composed("backbone=resnet18", "head=fcn", *IMAGES, *words)
    train_set, val_set = build_datasets(config)
    segmenter = build_segmenter(config, 8).eval()
    module = SegmentationModule(config, segmenter, train_set, RunLength(1, 1, 1))
    loss = 0.0
    with torch.inference_mode():
        at_once = partial(module.inference.images_at_once, device=torch.device("cpu"))
        for index, images in enumerate(image_batches(val_set, 0, False, at_once)):
            batch = join_images(images, torch.device("cpu"))
            module.validation_step(batch, index)
            full = build_inference(config.inference, config)(segmenter, batch["image"]).full()
            for logits, mask in zip(full, batch["mask"], strict=True):
                loss += F.cross_entropy(logits[None], mask[None].long(), ignore_index=255).item()
    counts = evaluate(segmenter, val_set, build_inference(config.inference, config), None, 0)
    assert (module.confusion.matrix.numpy() == counts.matrix).all()
    assert sum(module.val_losses).item() == pytest.approx(loss, rel=1e-4)


def test_an_image_that_is_void_everywhere_has_no_loss(monkeypatch):
    config = composed("backbone=resnet18", "head=fcn", *IMAGES)
    train_set, _ = build_datasets(config)
    module = SegmentationModule(config, build_segmenter(config, 8).eval(), train_set, RunLength(1, 1, 1))
    monkeypatch.setattr(SegmentationModule, "trainer", SimpleNamespace(sanity_checking=True))
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    masks = torch.zeros(3, 32, 32, dtype=torch.uint8)
    masks[1] = 255
    with torch.inference_mode():
        for kept in ([0, 1, 2], [1]):
            module.on_validation_epoch_start()
            module.validation_step({"image": torch.full((len(kept), 3, 32, 32), 99.0), "mask": masks[kept]}, 0)
            module.on_validation_epoch_end()
            alone = module.val_losses[0].item()
            assert module.metrics["val/loss"] == pytest.approx(alone)
    assert alone == 0


@pytest.mark.parametrize(
    ("best", "value", "mode", "expected"),
    [
        (None, 0.5, "max", 0.5),
        (0.6, 0.5, "max", 0.6),
        (0.6, 0.5, "min", 0.5),
        (0.6, NAN, "max", 0.6),
        (None, NAN, "min", None),
    ],
)
def test_the_better_value(best, value, mode, expected):
    assert better(best, value, mode) == expected


def test_the_best_value_in_a_checkpoint():
    own = {"monitor": "val/loss", "best": 0.5}
    assert stored_best({checkpoint.KEY: own}, "val/loss") == 0.5
    assert stored_best({checkpoint.KEY: own}, "val/miou") is None  # of another metric
    states = {
        "of another": {"patience": 3},
        "ModelCheckpoint": {"monitor": "val/miou", "best_model_score": torch.tensor(0.25)},
    }
    assert stored_best({checkpoint.KEY: {}, "callbacks": states}, "val/miou") == 0.25
    assert stored_best({checkpoint.KEY: {}, "callbacks": states}, "val/loss") is None
