"""Taps that see only padding in training crops: which layers have them, and the settings that cure it."""

import logging

import pytest
import torch
from conftest import IMAGES, composed
from torch import nn

from segframe.data.build import build_datasets
from segframe.inference import TTA, SlidingWindow, WholeImage
from segframe.models.build import build_segmenter
from segframe.training.untrained_taps import cures, seen_taps, untrained_layers, warn_of_untrained_taps

KINDS = [
    # Network, crop, dilations of the layers with untrained taps, cure.
    ("backbone=resnet18 head=deeplabv3plus", (192, 256), {12, 18}, "head.rates=[2,4,6]"),
    ("backbone=resnet18 head=deeplabv3", (192, 256), {24, 36}, "head.rates=[4,8,13]"),
    ("backbone=resnet18 head=deeplabv3 backbone.output_stride=16", (192, 256), {12, 18}, "head.rates=[4,8,12]"),
    ("backbone=resnet18 head=deeplabv2 head.rates=[3,12]", (64, 96), {12}, "head.rates=[1,4]"),
    ("model=deeplabv1 backbone.fc_channels=8", (80, 96), {12}, "backbone.rates=[6]"),
    ("model=deeplabv2_vgg16_s backbone.fc_channels=8", (64, 96), {12}, "backbone.rates=[1,1,2,4]"),
    ("backbone=resnet18 head=fcn backbone.multi_grid=[1,2]", (64, 64), {8}, "data.crop_size=[72,72]"),
    ("backbone=resnet18 head=unet", (32, 64), {1}, "data.crop_size=[64,64]"),
    ("backbone=resnet18 head=deeplabv3plus", (320, 320), set(), ""),
]


@pytest.mark.parametrize(("words", "crop", "dilations", "cure"), KINDS)
def test_layers_and_cure(words, crop, dilations, cure):
    config = composed(*words.split(), "backbone.weights=null")
    segmenter = build_segmenter(config, 3)
    image = torch.zeros(3, *crop, dtype=torch.uint8)
    layers = untrained_layers(segmenter, image, (360, 480))
    assert {layer.dilation for layer in layers} == dilations
    assert segmenter.training
    if not layers:
        return
    assert cures(config, segmenter, layers, crop) == [cure]
    key, value = cure.split("=")
    if key == "data.crop_size":
        image = torch.zeros(3, *map(int, value.strip("[]").split(",")), dtype=torch.uint8)
        cured = segmenter
    else:
        given = words.replace("head.rates=[3,12]", "").split()
        cured = build_segmenter(composed(*given, "backbone.weights=null", cure), 3)
    assert not untrained_layers(cured, image, (360, 480))


def test_taps_along_an_axis():
    assert [seen_taps(nn.Conv2d(1, 1, 3, padding=4, dilation=4), 0, cells) for cells in (1, 4, 5)] == [1, 1, 3]
    assert seen_taps(nn.Conv2d(1, 1, 3, padding=1), 1, 1) == 1
    assert seen_taps(nn.Conv2d(1, 1, 3, padding=1, stride=2), 1, 2) == 2
    assert seen_taps(nn.Conv2d(1, 1, 3), 1, 3) == 3


@pytest.mark.parametrize(
    ("size", "inference", "warned"),
    [
        (128, WholeImage(), True),
        (128, SlidingWindow(64, None, "exact", 1), False),
        (64, WholeImage(), False),  # images are no larger than crops: nothing speaks up
        (64, TTA([1.0, 2.0], False, "exact", 1), True),
    ],
)
def test_warning_names_both_cures(size, inference, warned, caplog):
    words = ("backbone=resnet18", "head=deeplabv3plus", *IMAGES, f"data.dataset.size={size}", "data.crop_size=64")
    config = composed(*words)
    with caplog.at_level(logging.WARNING):
        warn_of_untrained_taps(config, build_segmenter(config, 8), inference, *build_datasets(config))
    assert [record.message.partition(";")[2] for record in caplog.records] == warned * [
        " set head.rates=[1,1,2], or inference=sliding_window (inference.window=null), which reads such images in "
        "windows of the crop's size"
    ]
