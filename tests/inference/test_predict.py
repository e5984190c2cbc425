"""Prediction of image files and of what is inside a network; another output stride; post-processing."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from small_networks import NAMES, images, save_checkpoint, save_image

from segframe.data import Shapes
from segframe.errors import UserError
from segframe.inference.base import classify
from segframe.inference.inputs import find_inputs
from segframe.inference.predict import choose_background, choose_classes
from segframe.inference.prediction_files import class_folders
from segframe.models.from_checkpoint import restore
from segframe.models.logits import Logits


def test_output_names_are_unique(tmp_path):
    for name in ("x.jpg", "x.png", "x.jpg.png", "x.jpg.png.bmp", "y.png", "y.bmp.png", "deep/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {str(path.relative_to(tmp_path)): str(name) for path, name in find_inputs(tmp_path, tmp_path / "o").items()}
    kept = ("x.jpg", "x.jpg.png", "x.jpg.png.bmp", "x.png")
    assert found == {"deep/x.jpg": "deep/x", "y.bmp.png": "y.bmp", "y.png": "y"} | {name: name for name in kept}


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p/a.jpg", "p/b.PNG", "p/drive.MP4", "p/notes.txt", "p/deep/er/c.jpg", "p/out/d.jpg", "p/[x]/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        return {str(path): str(name) for path, name in find_inputs(Path(pattern), Path("p/out")).items()}

    assert found("p/*.jpg") == {"p/a.jpg": "a"}
    assert found("p/*") == found("p")  # folders that match are read whole
    assert found("p") == {
        **{"p/[x]/e.jpg": "[x]/e", "p/a.jpg": "a", "p/b.PNG": "b", "p/deep/er/c.jpg": "deep/er/c"},
        "p/drive.MP4": "drive",
    }
    assert list(found("p/**/*.jpg")) == ["p/[x]/e.jpg", "p/a.jpg", "p/deep/er/c.jpg"]
    assert found("p/d?ep/**") == {"p/deep/er/c.jpg": "deep/er/c"}
    assert found("*/[ab].*") == {"p/a.jpg": "p/a", "p/b.PNG": "p/b"}
    assert found("p/[x]") == {"p/[x]/e.jpg": "e"}  # a folder of that name
    for pattern in ("p/*.tif", "nowhere/*.jpg", "p/*.txt", "p/out/*"):
        with pytest.raises(UserError, match=r"input=.*: no image and no video matches this pattern|lies within output"):
            found(pattern)


def test_background():
    assert choose_background("auto", ("road", "Background")) == 1
    assert choose_background("auto", ("road", "sky")) is None
    assert choose_background("sky", ("road", "sky", "background")) == 1
    assert choose_background(None, ("background",)) is None
    with pytest.raises(UserError, match=r"background=skye: the checkpoint has no such class; did you mean sky\?"):
        choose_background("skye", ("road", "sky"))


def test_output_stride_of_a_trained_network_can_be_changed(tmp_path):
    trained = save_checkpoint(tmp_path, "backbone=resnet18", "head=deeplabv3plus", "head.rates=[6,12,18]")
    same, dense = (restore(tmp_path / "x.ckpt", stride).segmenter for stride in (16, 8))
    assert dense.backbone.features["c5"].stride == 8
    assert [conv[0].dilation[0] for conv in dense.head.aspp.convs[1:4]] == [12, 24, 36]
    with torch.no_grad():
        assert torch.equal(same(images()), trained(images()))
        coarse, fine = (n.backbone(n.normalize(images()))["c5"] for n in (trained, dense))
    torch.testing.assert_close(fine[..., ::2, ::2], coarse)


def test_postprocess_gets_image_and_probabilities():
    logits, batch, calls = Logits(torch.randn(2, 3, 5, 6), (10, 12), aligned_stride=None), images(10, 12, n=2), []

    def record(image, probabilities):
        calls.append((image, probabilities))
        return probabilities

    assert torch.equal(classify(logits, batch, record), logits.classes())
    for k, (image, probabilities) in enumerate(calls):
        assert np.array_equal(image, batch[k].permute(1, 2, 0).numpy())
        assert (image.dtype, probabilities.dtype) == (np.uint8, np.float32)
        np.testing.assert_allclose(probabilities, logits.full()[k].softmax(0), rtol=1e-5)
    first = classify(logits, batch, lambda image, probabilities: probabilities * [[[1]], [[0]], [[0]]])
    assert first.sum() == 0
    assert first.dtype == torch.uint8


def test_classes_of_heat_maps():
    assert choose_classes("all", NAMES) == [0, 1, 2]
    assert choose_classes("k1", NAMES) == [1]
    assert choose_classes(["k2", "k0"], NAMES) == [2, 0]
    assert choose_classes([], NAMES) == choose_classes(None, NAMES) == []
    with pytest.raises(UserError, match=r"heatmaps=k: the checkpoint has no such class; did you mean k0\?"):
        choose_classes(["k"], ("k0", "road"))


def test_folders_of_heat_maps_are_unique():
    folders = class_folders(("a/b", "a_b", "road", "", "  ", "..", "Sky", "sky", "道路", "x" * 300))
    assert folders == ["a_b (0)", "a_b (1)", "road", "(3)", "(4)", "_", "Sky (6)", "sky (7)", "道路", "x" * 50]


def test_images_of_more_channels_and_bits(run, tmp_path):
    """Predicted as the network computes them from the file's values; other files are refused in a sentence."""
    settings = ("data.channels=5", "data.max_value=4095", f"normalize.mean={[90] * 5}", f"normalize.std={[50] * 5}")
    network = save_checkpoint(tmp_path, "backbone=resnet18", "head=fcn", *settings, classes=Shapes.classes)
    values = np.random.default_rng(0).integers(0, 4096, (45, 61, 5)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", values)
    words = ("heatmaps=all", "feature_maps=true", "background=null")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=out", *words)
    assert result.code == 0, result.out
    with torch.no_grad():
        scaled = torch.from_numpy(values.astype(np.float32) * 255 / 4095).permute(2, 0, 1)[None]
        expected = network.outputs(scaled)["main"].classes()[0]
    assert np.array_equal(Image.open(tmp_path / "out/index/a.png"), expected)
    overlay = np.array(Image.open(tmp_path / "out/overlay/a.png")).astype(int)
    assert np.abs(overlay - values[..., :3] * (255 / 4095) / 2).max() <= 1  # the classes of the checkpoint are black
    save_image(tmp_path / "in/b.png")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=two")
    assert result.code == 1
    assert "b.png has 8 bits per channel, and data.max_value=4095" in result.out
    result = run("scripts/evaluate.py", "checkpoint=x.ckpt", "data=shapes")
    assert "data.channels=3: the checkpoint's network reads 5 channels; set data.channels=5" in result.out


def test_heat_maps_and_feature_maps(run, tmp_path):
    save_checkpoint(tmp_path, "backbone=resnet18", "head=fcn")
    save_image(tmp_path / "a.png")
    more = ("heatmaps=[k2]", "feature_maps=true", "feature_channels=5", "output_stride=16")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=out", *more)
    assert result.code == 0, result.out
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    masks = {"index/a.png", "colour/a.png", "overlay/a.png", "legend.png", "classes.txt", "heatmaps/k2/a.png"}
    assert files == masks | {f"features/a/c{k}.png" for k in range(1, 6)}
    plain = run("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=two", "inference=shift_and_stitch")
    assert plain.code == 0, plain.out
    assert {path.name for path in (tmp_path / "two").iterdir() if path.is_dir()} == {"index", "colour", "overlay"}


def test_full_disk(run, tmp_path, monkeypatch):
    save_checkpoint(tmp_path, *TINY)
    save_image(tmp_path / "a.png")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=out")
    assert result.code == 1
    assert result.out.endswith("error: cannot write out/classes.txt (No space left on device)\n")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_images_that_cannot_be_predicted_are_skipped(run, tmp_path):
    save_checkpoint(tmp_path, "model=unet", *TINY[2:], "backbone.channels=[4,4,8,8,8]", "head.channels=[8,8,4,4]")
    save_image(tmp_path / "in/a.png", height=5)
    save_image(tmp_path / "in/b.png")
    (tmp_path / "in/c.png").symlink_to("missing.png")
    (tmp_path / "in/e.png").write_text("no image")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=in/out")
    assert result.code == 1
    assert "skipped: in/a.png: the images are too small for this network (" in result.out
    assert "skipped: in/c.png: there is no such file" in result.out
    assert "in/e.png" in result.out
    assert "1 of 4 images predicted" in result.out


WRONG_SETTINGS = [
    ("output_stride=8", "cannot be built at output_stride=8"),
    ("inference=shift_and_stitch", "choose a head with coarse logits"),
    ("heatmaps=5", "heatmaps=5: the checkpoint has no such class; there is k0, "),
    ("alpha=2", "alpha=2.0: it must be between 0 and 1"),
    ("precision=8", "precision=8: unknown; choose null"),
    ("accelerator=tpu", "accelerator=tpu: unknown; choose auto, cpu or gpu"),
    ("input=in/notes.txt", "input=in/notes.txt: no image and no video by its suffix"),
    ("input='in/*.jpg'", "input=in/*.jpg: no image and no video matches this pattern (.avi, "),
    ("heatmaps=all", "heatmaps, feature_maps and submission are of images, and in/drive.mp4 is a video; give"),
    ("input=nowhere", "input=nowhere: no such file or folder"),
    ("input=.", "input=.: there is no image and no video in this folder"),
    ("output=.", "input=in lies within output=."),
]


def test_wrong_settings_end_with_one_sentence(run, tmp_path):
    save_checkpoint(tmp_path, "backbone=resnet18", "head=fcn8s")
    save_image(tmp_path / "in/a.png")
    (tmp_path / "in/drive.mp4").touch()
    (tmp_path / "in/notes.txt").touch()
    for word, sentence in WRONG_SETTINGS:
        inputs = [] if word.startswith("input=") else ["input=in"]
        if word == "input=.":
            (tmp_path / "in/a.png").unlink()
            (tmp_path / "in/drive.mp4").unlink()
        assert sentence in run("scripts/predict.py", "checkpoint=x.ckpt", *inputs, "output=out", word).error
