"""Sliding windows, test-time augmentation and a full disk from the command line."""

import errno
import json
import os

import pytest
import torch
from conftest import TINY
from PIL import Image
from test_inference import images, stored

from segframe.cli.checkpoint_data import stored_data
from segframe.data.datasets.shapes import Shapes
from segframe.inference import evaluate
from segframe.models.weights import checkpoint


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_predict_names_what_is_no_image_file(run, tmp_path):
    stored(tmp_path, *TINY, classes=Shapes.classes)
    (tmp_path / "in").mkdir()
    Image.fromarray(images(45, 61)[0].permute(1, 2, 0).numpy()).save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").symlink_to("missing.png")
    (tmp_path / "in/c.png").symlink_to("c.png")
    os.mkfifo(tmp_path / "in/d.png")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=in/out")
    assert result.code == 1
    assert "skipped: in/b.png is a link to nothing" in result.out
    assert "skipped: in/c.png is a link to nothing" in result.out
    assert "skipped: in/d.png is no file, but a pipe or a device" in result.out
    assert "1 of 4 images predicted" in result.out


def evaluated(run, tmp_path, data, *words):
    """Evaluates a checkpoint whose data node has these parts."""
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    content[checkpoint.KEY]["config"]["data"] |= data
    torch.save(content, tmp_path / "y.ckpt")
    return run("scripts/evaluate.py", "checkpoint=y.ckpt", "accelerator=cpu", "output_dir=a", *words)


FOLDER = {"_target_": "segframe.data.Folder", "classes": ["a", "b"]}


def test_what_a_checkpoint_says_of_its_data_is_not_obeyed_blindly(run, tmp_path, monkeypatch):
    stored(tmp_path, *TINY, classes=Shapes.classes)
    monkeypatch.setenv("SECRET", "hidden-words")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/zero").symlink_to("/dev/zero")
    (tmp_path / "data/names").touch()
    os.truncate(tmp_path / "data/names", 1 << 30)
    here = {"root": str(tmp_path / "data")}
    for data, message in [
        ({"root": "${oc.env:SECRET}", "dataset": FOLDER}, "computes values"),
        ({"dataset": {**FOLDER, "${oc.env:SECRET}": 1}}, "computes values"),
        ({"dataset": [1]}, "data.dataset names no dataset"),
        ({"dataset": {"_target_": ["x"]}}, "data.dataset names no dataset"),
        ({**here, "dataset": {**FOLDER, "classes": "/dev/zero"}}, "data read /dev/zero, which is not below data.root"),
        ({**here, "dataset": {**FOLDER, "splits": {"val": "../x.ckpt"}}}, "data read ../x.ckpt, which is not below"),
        ({**here, "dataset": {**FOLDER, "classes": "zero"}}, "data/zero is no list of names"),
        ({**here, "dataset": {**FOLDER, "classes": "names"}}, "data/names is no list of names"),
        ({"dataset": {"_target_": "segframe.data.Shapes", "num_images": {"val": 10**9}}}, "at most 1,000,000"),
        ({"dataset": {"_target_": "segframe.data.Shapes", "size": 10**6}}, "at most 4,096"),
    ]:
        result = evaluated(run, tmp_path, data)
        assert result.code == 1
        assert message in result.out
        assert "Traceback" not in result.out
        assert "hidden-words" not in result.out


def test_a_checkpoint_starts_no_more_workers_than_a_machine_has(run, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(evaluate, "image_loader", lambda data, workers, pin_memory: counted.append(workers) or [])
    stored(tmp_path, *TINY, classes=Shapes.classes)
    for number, words in [(0, ()), (4000, ()), (-3, ()), (4000, ("data.num_workers=9",))]:
        assert evaluated(run, tmp_path, {"num_workers": number}, *words).code == 0
    assert counted == [0, None, None, 9]


def test_lists_from_elsewhere_are_named_by_hand(tmp_path):
    data = {"root": str(tmp_path), "dataset": {**FOLDER, "splits": {"val": "/lists/val.txt"}}}
    assert stored_data(data, ["data.dataset.splits={val: /lists/val.txt}"])["dataset"] == data["dataset"]
    assert stored_data(data, ["data.dataset.splits.val=/lists/val.txt"])["dataset"] == data["dataset"]
    below = {"root": str(tmp_path), "dataset": {**FOLDER, "classes": str(tmp_path / "lists/classes.txt")}}
    assert stored_data(below, [])["dataset"] == below["dataset"]
