"""Optimizer groups, run length, and a network that learns four images by heart."""

import pytest
import torch
from conftest import TINY, composed

from segframe.config.instantiate import instantiate
from segframe.config.schema import TrainerConfig
from segframe.data.build import build_data, measure_run
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.training import build
from segframe.training.parameter_groups import group_parameters


def groups(*overrides):
    config = composed("backbone=resnet18", "head=deeplabv3plus", *overrides)
    with torch.device("meta"):
        segmenter = build_segmenter(config, 3)
    make_optimizer = instantiate(config.optimizer, "optimizer")
    return segmenter, {g["name"]: g for g in group_parameters(segmenter, make_optimizer, config.param_groups)}


def test_groups_by_part_and_kind():
    segmenter, found = groups(
        "aux_head=fcn",
        "optimizer.lr=0.1",
        "optimizer.weight_decay=0.01",
        "head.lr_multiplier=10",
        "aux_head.lr_multiplier=5",
        "param_groups.bias_lr_multiplier=2",
    )
    expected = {
        "backbone/weight": (0.1, 0.01),
        "backbone/norm": (0.1, 0.0),
        "head/weight": (1.0, 0.01),
        "head/bias": (2.0, 0.0),
        "head/norm": (1.0, 0.0),
        "aux_head/weight": (0.5, 0.01),
        "aux_head/bias": (1.0, 0.0),
        "aux_head/norm": (0.5, 0.0),
    }
    assert found.keys() == expected.keys()
    for name, group in found.items():
        assert (group["lr"], group["weight_decay"]) == pytest.approx(expected[name]), name
    grouped = [id(p) for g in found.values() for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in segmenter.parameters())


def test_decay_on_everything_and_fixed_weights_in_no_group():
    segmenter, found = groups("head=fcn8s", "param_groups.decay_bias=true", "param_groups.decay_norm=true")
    assert {g["weight_decay"] for g in found.values()} == {0.0001}
    fixed = {id(p) for p in segmenter.head.upscore.parameters()}
    assert not fixed & {id(p) for g in found.values() for p in g["params"]}


def settings(**values):
    defaults = {"max_epochs": 10, "val_every_n_epochs": 1, "precision": "32-true", "accelerator": "cpu"}
    return TrainerConfig(**(defaults | values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (120, 12, 12)),
        ({"val_every_n_epochs": 0.5}, (120, 12, 6)),
        ({"max_steps": 30}, (30, 12, 12)),
        ({"max_steps": 5}, (5, 12, 5)),
        ({"val_every_n_steps": 50}, (120, 12, 50)),
        ({"accumulate_grad_batches": 4}, (30, 3, 3)),
        ({"accumulate_grad_batches": 1000}, (10, 1, 1)),
    ],
)
def test_length_of_a_run(values, expected):
    assert measure_run(settings(**values), num_samples=100, batch_size=8) == expected


def test_lengths_that_make_no_sense_are_told():
    with pytest.raises(UserError, match=r"trainer\.max_steps must be positive, got 0"):
        measure_run(settings(max_steps=0), 100, 8)
    with pytest.raises(UserError, match=r"data\.batch_size must be positive, got 0"):
        measure_run(settings(), 100, 0)


def learn(*overrides):
    """Pixel accuracy on four images after training on them."""
    config = composed(
        "experiment=overfit", *TINY[2:4], "data.dataset.num_images={train: 4, val: 4, test: 4}", *overrides
    )
    torch.manual_seed(0)
    data, _ = build_data(config)
    segmenter = build_segmenter(config, len(data.train.classes)).train()
    loss = instantiate(config.loss, "loss")
    optimizer = instantiate(config.optimizer, "optimizer")(
        group_parameters(segmenter, instantiate(config.optimizer, "optimizer"), config.param_groups)
    )
    batch = next(iter(data.train_dataloader()))
    for _ in range(50):
        optimizer.zero_grad()
        loss(segmenter.outputs(batch["image"])["main"], batch["mask"]).backward()
        optimizer.step()
    valid = batch["mask"] != 255
    found = segmenter.outputs(batch["image"])["main"].classes()
    return (found == batch["mask"])[valid].float().mean().item()


def test_four_images_are_learnt_by_heart():
    assert learn("backbone=resnet18", "head=deeplabv3plus", "data.num_workers=0") > 0.95


def test_an_output_without_a_weight_is_told():
    config = composed(*TINY, "input_scales=[0.7]")
    data, length = build_data(config)
    segmenter = build_segmenter(config, len(data.train.classes))
    with pytest.raises(UserError, match=r"output_weights has no entry scale_100, an output of this network"):
        build.build_module(config, segmenter, data.train, length)
