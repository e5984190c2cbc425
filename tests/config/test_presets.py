"""Every preset learns: four images by heart, in a small variant."""

import csv

import numpy as np
import pytest
from conftest import options
from PIL import Image

VGG = ("backbone.dropout=0", "backbone.lr_multiplier=1", "head.lr_multiplier=1", "optimizer.lr=0.0003")
VGG_FC = ("backbone.fc_channels=64", *VGG)
# The papers' padding of 100 is what a 7x7 fc6 needs: a 3x3 one needs less.
PADDED = (*VGG_FC, "backbone.fc6_kernel=3", "backbone.input_padding=40")
NARROW = ("backbone.channels=[16,32,32,64,64]", "backbone.dropout=0", "optimizer.lr=0.001")
RESNET = ("optimizer.lr=0.001",)
SMALL = {
    "fcn32s": VGG_FC,
    "fcn16s": VGG_FC,
    "fcn8s": VGG_FC,
    "fcn8s-atonce": VGG_FC,
    "fcn32s_original": PADDED,
    "fcn16s_original": PADDED,
    "fcn8s_original": PADDED,
    "fcn8s-atonce_original": PADDED,
    "fcn_alexnet": VGG_FC,
    "fcn_alexnet_original": VGG_FC,
    "deeplabv1": VGG_FC,
    "deeplabv2_vgg16": VGG_FC,
    "deeplabv2_vgg16_s": VGG_FC,
    "deeplabv2": ("backbone.variant=resnet50", "head.lr_multiplier=1", *RESNET),
    "deeplabv3": ("backbone=resnet18", *RESNET),
    "deeplabv3plus": ("backbone=resnet18", *RESNET),
    "deeplabv3plus_xception65": ("backbone=xception41", *RESNET),
    "segnet": ("backbone.variant=vgg11_bn", "head.depths=[1,1,1,1,2]", *RESNET),
    "unet": (*NARROW, "head.channels=[64,32,32,16]"),
    "unet_original": (*NARROW, "head.channels=[64,32,32,16]"),
    "unet_bilinear": (*NARROW, "head.channels=[32,32,16,16]"),
}
SIDE = 64


def four_images(folder):
    """Four images of four noisy, coloured quarters each, and masks that say which of four classes a quarter is."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind / "train").mkdir(parents=True)
    for k in range(4):
        colors, classes = rng.integers(0, 256, (2, 2, 3)), rng.integers(0, 4, (2, 2))
        image = colors.repeat(SIDE // 2, 0).repeat(SIDE // 2, 1) + rng.normal(0, 10, (SIDE, SIDE, 3))
        mask = classes.repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"images/train/{k}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"masks/train/{k}.png")


def test_every_preset_has_a_small_variant():
    assert SMALL.keys() == set(options("model"))


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_every_preset_learns_four_images_by_heart(model, run, tmp_path):
    four_images(tmp_path / "photos")
    result = run(
        "train.py", f"model={model}", "data=folder", "data.root=photos", "data.dataset.classes=[a,b,c,d]",
        "data.val_split=train", f"data.crop_size={SIDE}", "data.batch_size=4", "data.num_workers=0",
        "data.weights=null", "transforms=none", "optimizer=adamw", "scheduler=constant", *SMALL[model],
        "callbacks=early_stopping", "callbacks.early_stopping.patience=1000", "monitor=val/pixel_accuracy",
        "+callbacks.early_stopping.stopping_threshold=0.95", "trainer.max_steps=300", "trainer.val_every_n_steps=20",
        "trainer.accelerator=cpu", "logger=none", "output_dir=run",
    )  # fmt: skip
    assert result.code == 0, result.out
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/pixel_accuracy"]]
    print(model, rows[-1]["step"], rows[-1]["val/pixel_accuracy"])
    assert float(rows[-1]["val/pixel_accuracy"]) > 0.95
