"""Parameter groups: every trained parameter once, with the learning rate and decay of its part and kind."""

import pytest
import torch
from conftest import composed

from segframe.config.instantiate import instantiate
from segframe.errors import UserError
from segframe.models.build import build_segmenter
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


@pytest.mark.parametrize(
    ("word", "message"),
    [("~optimizer.lr", r"optimizer\.lr must be given"), ("head.lr_multiplier=-1", r"head\.lr_multiplier")],
)
def test_wrong_rates(word, message):
    with pytest.raises(UserError, match=message):
        groups(word)
