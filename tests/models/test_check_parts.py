"""Mistakes in parts of a user's own end in a sentence before the first step."""

import pytest
import torch
from conftest import composed
from torch import nn

from segframe.errors import UserError
from segframe.models import Logits
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.build import build_segmenter
from segframe.models.check_parts import check_parts, has_own_parts
from segframe.models.heads.base import Head
from segframe.models.losses.combined import scalar


class Own(Backbone):
    """Two strided convolutions."""

    lr_multiplier = 1.0
    features = {"c1": Feature(4, 2, 0.0), "c2": Feature(8, 4, 0.0)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, images):
        c1 = self.one(images)
        return {"c1": c1, "c2": self.two(c1)}


class OneByOne(Head):
    """One convolution of c2."""

    lr_multiplier = 1.0
    extra = 0

    def __init__(self, features, num_classes):
        super().__init__()
        self.classifier = nn.Conv2d(features["c2"].channels, num_classes + self.extra, 1)

    def forward(self, maps, size):
        return Logits(self.classifier(maps["c2"]), size, None)


class NoRate(Own):
    lr_multiplier = property()


class Listed(Own):
    def forward(self, images):
        return list(super().forward(images).values())


class Lacking(Own):
    def forward(self, images):
        return {"c2": super().forward(images)["c2"]}


class WrongChannels(Own):
    features = {"c1": Feature(16, 2, 0.0), "c2": Feature(8, 4, 0.0)}  # noqa: RUF012


class WrongStride(Own):
    features = {"c1": Feature(4, 1, 0.0), "c2": Feature(8, 4, 0.0)}  # noqa: RUF012


class Fewer(OneByOne):
    extra = -1


class Plain(OneByOne):
    def forward(self, maps, size):
        return self.classifier(maps["c2"])


def checked(backbone="Own", head="OneByOne"):
    """Build and check a network of these parts."""
    config = composed("backbone=resnet18", "head=fcn")
    config.backbone = {"_target_": f"{__name__}.{backbone}"}
    config.head = {"_target_": f"{__name__}.{head}", "_partial_": True}
    network = build_segmenter(config, 3).train()
    assert has_own_parts(config)
    check_parts(network, torch.zeros(3, 50, 65, dtype=torch.uint8), 3)
    return network


def test_right_parts_pass_and_stay_in_training_mode():
    assert checked().training
    assert not has_own_parts(composed("backbone=resnet18", "head=fcn"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"backbone": "NoRate"}, "backbone=NoRate: it has no lr_multiplier; set self.lr_multiplier in __init__"),
        ({"backbone": "Listed"}, "backbone=Listed: forward returns a list; return a dict with features' keys, c1, c2"),
        ({"backbone": "Lacking"}, "backbone=Lacking: forward returns the maps c2; return a dict with"),
        ({"backbone": "WrongChannels"}, r"features\['c1'\] says 16 channels, and its map has 4; correct features"),
        ({"backbone": "WrongStride"}, r"says stride 1, and its map of an image of 50x65 has 25x33 cells"),
        ({"head": "Fewer"}, "head=Fewer: its logits have 2 channels, and the data 3 classes"),
        ({"head": "Plain"}, r"head=Plain: forward returns a Tensor; return Logits\(values, size, None\)"),
    ],
)
def test_mistakes(parts, message):
    with pytest.raises(UserError, match=message):
        checked(**parts)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.ones(2), r"a tensor of shape \(2,\)"), (1.5, "a float"), (torch.ones(()), "a scalar without a gradient")],
)
def test_losses_are_scalars_with_a_gradient(value, kind):
    class Mine:
        def __call__(self, logits):
            return value

    with pytest.raises(UserError, match=f"loss=Mine: forward returns {kind}; return a scalar tensor"):
        scalar(Mine(), None)
