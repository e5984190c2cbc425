"""Sliding windows, test-time augmentation and a full disk from the command line."""

import errno
import json
import os

import pytest
from conftest import TINY
from PIL import Image
from test_inference import images, stored

from segframe.data.shapes import Shapes


@pytest.mark.parametrize(
    ("evaluated", "told", "predicted", "shown"),
    [
        (
            ("inference=sliding_window", "inference.stride=16"),
            "sliding windows of 32x32 pixels every 16 down and 16 to the right, exact",
            ("inference=sliding_window", "inference.mode=fast", "inference.stride=32"),
            "32 to the right, fast",
        ),
        (
            ("inference=tta", "inference.scales=[0.5,1]", "inference.mode=fast", "inference.batch_size=4"),
            "test-time augmentation at scales 0.5, 1, mirrored, fast",
            ("inference=tta", "inference.scales=[1]", "inference.flip=false"),
            "at scales 1, not mirrored, exact",
        ),
    ],
    ids=["sliding_window", "tta"],
)
def test_ways_of_inference_from_the_command_line(run, tmp_path, evaluated, told, predicted, shown):
    stored(tmp_path, *TINY, classes=Shapes.classes)
    result = run("scripts/evaluate.py", "checkpoint=x.ckpt", "accelerator=cpu", *evaluated, "output_dir=a")
    assert result.code == 0, result.out
    assert f"inference: {told}" in result.out
    found = json.loads((tmp_path / "a/metrics.json").read_text())
    assert (found["inference"], found["inference_in_words"]) == (evaluated[0].partition("=")[2], told)

    Image.fromarray(images(45, 61)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=out", *predicted, "heatmaps=all")
    assert result.code == 0, result.out
    assert shown in result.out
    assert len(list((tmp_path / "out/heatmaps").iterdir())) == len(Shapes.classes)


def test_predictions_on_a_full_disk(run, tmp_path, monkeypatch):
    stored(tmp_path, *TINY, classes=Shapes.classes)
    Image.fromarray(images(45, 61)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=out")
    assert result.code == 1
    assert result.out.endswith("error: cannot write out/classes.txt (No space left on device)\n")
    assert "Traceback" not in result.out
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_image_that_is_too_small_is_named_and_skipped(run, tmp_path):
    stored(tmp_path, "model=unet", *TINY[2:], "backbone.channels=[4,4,8,8,8]", "head.channels=[8,8,4,4]")
    (tmp_path / "in").mkdir()
    for name, side in (("a", 5), ("b", 45)):
        Image.fromarray(images(side, 61)[0].permute(1, 2, 0).numpy()).save(tmp_path / f"in/{name}.png")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=out")
    assert result.code == 1
    assert "skipped: in/a.png: the images are too small for this network (" in result.out
    assert "1 of 2 images predicted" in result.out
