"""Evaluation from the command line, with data that a checkpoint names."""

import json

import pytest
import torch
from conftest import TINY, UNET, build_network
from PIL import Image
from small_networks import save_checkpoint, save_image

from segframe.data.datasets.folder import Folder
from segframe.data.datasets.shapes import Shapes
from segframe.inference import WholeImage, evaluate
from segframe.models.weights import checkpoint

FOLDER = {"_target_": "segframe.data.Folder", "classes": ["a", "b"]}


@pytest.mark.parametrize(
    ("evaluated", "description", "predicted", "end"),
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
        (
            ("inference=shift_and_stitch", "inference.factor=4", "output_stride=16"),
            "shift-and-stitch, 4 times as dense",
            ("inference=whole", "postprocess=dense_crf"),
            "whole images",
        ),
    ],
    ids=["sliding_window", "tta", "shift_and_stitch"],
)
def test_inference_from_the_command_line(run, tmp_path, evaluated, description, predicted, end):
    save_checkpoint(tmp_path, *TINY, classes=Shapes.classes)
    result = run("scripts/evaluate.py", "checkpoint=x.ckpt", "accelerator=cpu", *evaluated, "output_dir=a")
    assert result.code == 0, result.out
    assert f"inference: {description}" in result.out
    found = json.loads((tmp_path / "a/metrics.json").read_text())
    assert (found["inference"], found["inference_in_words"]) == (evaluated[0].partition("=")[2], description)
    assert (found["postprocess"], found["output_stride"]) == ("none", 16 if "output_stride=16" in evaluated else None)

    save_image(tmp_path / "a.png")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=out", *predicted, "heatmaps=all")
    assert result.code == 0, result.out
    assert end in result.out
    assert len(list((tmp_path / "out/heatmaps").iterdir())) == len(Shapes.classes)


def evaluate_changed(run, tmp_path, key, settings, *words):
    """Evaluate x.ckpt with changed settings of its data or inference."""
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    config = content[checkpoint.KEY]["config"]
    config[key] = {**config["data"], **settings} if key == "data" else settings
    torch.save(content, tmp_path / "y.ckpt")
    return run("scripts/evaluate.py", "checkpoint=y.ckpt", "accelerator=cpu", "output_dir=a", *words)


def test_an_unknown_split_is_refused(run, tmp_path):
    save_checkpoint(tmp_path, *TINY, classes=Shapes.classes)
    error = run("scripts/evaluate.py", "checkpoint=x.ckpt", "accelerator=cpu", "split=vali").error
    assert error == "error: Shapes has no split 'vali': it has train, val, test; type split=val"


def test_unsafe_data_settings_of_a_checkpoint_are_refused(run, tmp_path, monkeypatch):
    save_checkpoint(tmp_path, *TINY, classes=Shapes.classes)
    monkeypatch.setenv("SECRET", "hidden-words")
    for data, message in [
        ({"root": "${oc.env:SECRET}", "dataset": FOLDER}, "computes values"),
        ({"dataset": {"_target_": ["x"]}}, "data.dataset._target_=['x']: it must be the dotted name of a class"),
        ({"dataset": {"_target_": "segframe.data.Shapes", "num_images": {"val": 10**9}}}, "it must be between 0 and"),
    ]:
        result = evaluate_changed(run, tmp_path, "data", data)
        assert message in result.error
        assert "hidden-words" not in result.out


def test_the_inference_of_a_checkpoint_is_trusted_by_name_only(run, tmp_path):
    save_checkpoint(tmp_path, *TINY, classes=Shapes.classes)
    result = evaluate_changed(run, tmp_path, "inference", {"_target_": "os.mkdir", "path": "ran"})
    assert "inference._target_=os.mkdir: this is no part of segframe" in result.error
    assert not (tmp_path / "ran").exists()
    assert run("scripts/evaluate.py", "checkpoint=y.ckpt", "accelerator=cpu", "inference=whole").code == 0


def test_the_stored_inference_of_an_older_run_takes_its_newer_settings(run, tmp_path):
    save_checkpoint(tmp_path, *TINY, classes=Shapes.classes)
    whole = {"_target_": "segframe.inference.WholeImage"}
    result = evaluate_changed(run, tmp_path, "inference", whole, "inference.batch_size=2")
    assert result.code == 0, result.out
    result = evaluate_changed(run, tmp_path, "inference", whole, "inference.batch_size=0")
    assert "inference.batch_size=0" in result.error
    window = {"window": 32, "stride": None, "mode": "exact", "batch_size": 1}
    window["_target_"] = "segframe.inference.SlidingWindow"
    result = evaluate_changed(run, tmp_path, "inference", window, "inference.tapered=true")
    assert result.code == 0, result.out
    assert "exact, tapered" in result.out


def test_stored_number_of_workers_is_not_used(run, tmp_path, monkeypatch):
    workers_used = []
    usual = evaluate.image_batches

    def without_workers(dataset, num_workers, *more):
        workers_used.append(num_workers)
        return usual(dataset, 0, *more)

    monkeypatch.setattr(evaluate, "image_batches", without_workers)
    save_checkpoint(tmp_path, *TINY, classes=Shapes.classes)
    for words in ((), ("data.num_workers=9",)):
        assert evaluate_changed(run, tmp_path, "data", {"num_workers": 4000}, *words).code == 0
    assert workers_used == [None, 9]


def test_batches_change_neither_order_nor_counts(tmp_path):
    masks = tmp_path / "masks/val"
    (tmp_path / "images").mkdir()
    for index, size in enumerate([(40, 48), (48, 40), (40, 48), (40, 40)] * 24):
        save_image(tmp_path / f"images/val/{index:02}.png", *size)
        masks.mkdir(parents=True, exist_ok=True)
        Image.new("L", size[::-1], index % 2).save(masks / f"{index:02}.png")
    dataset = Folder(tmp_path, "val", classes=["a", "b", "c"])
    segmenter = build_network(*UNET, classes=3).eval().double()
    calls = []
    segmenter.backbone.register_forward_pre_hook(lambda module, images: calls.append(len(images[0])))
    one, three = (evaluate.evaluate(segmenter, dataset, WholeImage(number), None, 0) for number in (1, 3))
    assert calls[:96] == [1] * 96
    assert calls[96:].count(2) == 16  # of the three images of every second window two have one size
    assert calls[96:].count(1) == 64
    assert one.names == three.names == [f"{index:02}" for index in range(96)]
    assert all((a == b).all() for a, b in zip(one.images, three.images, strict=True))
