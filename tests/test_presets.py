"""Every preset learns: four images by heart, in a small variant."""

import csv

import pytest
from conftest import options

VGG_FC = ("backbone.fc_channels=64", "backbone.dropout=0", "backbone.lr_multiplier=1", "head.lr_multiplier=1")
NARROW = ("backbone.channels=[16,32,32,64,64]", "backbone.dropout=0", "head.channels=[64,32,32,16]")
SMALL = {
    "fcn": VGG_FC,
    "deeplabv1": VGG_FC,
    "deeplabv2_vgg16": VGG_FC,
    "deeplabv2_vgg16_s": VGG_FC,
    "deeplabv2": ("backbone.variant=resnet50", "head.lr_multiplier=1"),
    "deeplabv3": ("backbone=resnet18",),
    "deeplabv3plus": ("backbone=resnet18",),
    "segnet": ("backbone.variant=vgg11_bn", "head.depths=[1,1,1,1,2]"),
    "unet": NARROW,
}


def small(model):
    """The overrides of the longest name that a preset's begins with."""
    return SMALL[max((name for name in SMALL if model.startswith(name)), key=len)]


@pytest.mark.slow
@pytest.mark.parametrize("model", options("model"))
def test_every_preset_learns_four_images_by_heart(model, run, tmp_path):
    result = run(
        "train.py", "experiment=overfit", f"model={model}", *small(model), "data.dataset.size=64", "data.crop_size=64",
        "data.num_workers=0", "logger=none", "callbacks=none", "trainer.accelerator=cpu", "trainer.max_steps=250",
        "trainer.val_every_n_steps=250", "output_dir=overfit",
    )  # fmt: skip
    assert result.code == 0, result.out
    with (tmp_path / "overfit/metrics.csv").open() as file:
        last = [row for row in csv.DictReader(file) if row.get("val/pixel_accuracy")][-1]
    print(model, last["val/pixel_accuracy"])
    assert float(last["val/pixel_accuracy"]) > 0.95
