"""Export: files that compute what the network computes, at every size; files that do not are refused."""

import hashlib
import json

import pytest
import torch
import torch.nn.functional as F
from conftest import UNET
from small_networks import save_checkpoint

from segframe import __version__
from segframe.data.datasets.shapes import Shapes
from segframe.errors import UserError
from segframe.inference import int8, parity
from segframe.inference.int8 import quantize
from segframe.inference.onnx_network import open_session
from segframe.models.backbones import ResNet, Swin
from segframe.models.from_checkpoint import restore
from segframe.models.heads import unet

EXPORT = "scripts/export.py"
PLUS = ("backbone=resnet18", "head=deeplabv3plus", "data.dataset.size=32")


@pytest.fixture
def needs_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs pip install segframe[export]")


def export(run, tmp_path, overrides, *words, file="model.onnx"):
    save_checkpoint(tmp_path, *overrides, classes=Shapes.classes)
    return run(EXPORT, "checkpoint=x.ckpt", f"output={file}", *words)


def test_the_file_holds_classes_and_a_description_and_is_free_of_sizes(exported):
    session = open_session(exported / "model.onnx")
    (image,), (classes, scores) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert (classes.name, classes.type, classes.shape) == ("classes", "tensor(uint8)", ["batch", "height", "width"])
    assert (scores.name, scores.type) == ("scores", "tensor(float)")
    assert scores.shape == ["batch", len(Shapes.classes), "height", "width"]
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["classes"]) == list(Shapes.classes)
    assert len(json.loads(found["palette"])) == len(Shapes.classes)
    assert (found["channels"], found["max_value"], found["opset"]) == ("3", "255", "20")
    assert found["segframe_version"] == __version__
    checkpoint = (exported / "first/checkpoints/best.ckpt").read_bytes()
    assert found["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert "crop_size: 32" in found["config"]


def test_scores_are_the_networks_at_another_size_than_traced(exported):
    session, network = open_session(exported / "model.onnx"), restore(exported / "first").segmenter
    images = torch.randint(0, 256, (3, 3, 51, 37), dtype=torch.uint8)
    classes, scores = (torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()}))
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert (classes == expected.argmax(1)).float().mean() > 0.999
    assert str(exported).encode() not in (exported / "model.onnx").read_bytes()


@pytest.mark.slow
def test_torch_export_writes_a_program_with_the_same_description(run, tmp_path):
    result = export(run, tmp_path, PLUS, "format=torch_export", file="model.pt2")  # a last map of one cell at 32 x 32
    assert result.code == 0, result.out
    extra = {"segframe.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["segframe.json"])["classes"] == list(Shapes.classes)
    assert program.module(check_guards=False)(torch.zeros(1, 3, 45, 50, dtype=torch.uint8))[0].shape == (1, 45, 50)


@pytest.mark.slow
def test_a_branch_frozen_to_the_traced_size_fails_the_export(run, tmp_path, needs_onnx, monkeypatch):
    def frozen(x, size):
        """As if the branch were not left out of exports; the traced maps have equal sizes."""
        return x if x.shape[-2:] == size else F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))

    monkeypatch.setattr(unet, "fit", frozen)
    error = export(run, tmp_path, UNET).error
    assert error.startswith("error: format=onnx: the exported file fails at 1 x 33 x 47 (images x height x width)")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_scores_of_a_network_that_was_never_trained_prove_nothing(run, tmp_path, needs_onnx):
    error = export(run, tmp_path, ("backbone=resnet18", "head=fcn8s", "data.dataset.size=32")).error
    assert "the network gives the same scores for every pixel" in error
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("format=onx",), "format=onx: unknown format; did you mean onnx"),
        (("format=torch_export",), "output=model.onnx: a file of format=torch_export ends in .pt2"),
        (("opset=7",), "opset=7: it must be between 18 and 23"),
    ],
)
def test_wrong_settings(run, tmp_path, words, message):
    assert message in export(run, tmp_path, UNET, *words).error


@pytest.mark.slow
def test_backbones_that_cannot_be_traced_are_refused(run, tmp_path, needs_onnx, monkeypatch):
    monkeypatch.setattr(ResNet, "is_exportable", Swin.is_exportable)
    result = export(run, tmp_path, PLUS)
    assert result.code == 1
    assert "checkpoint=x.ckpt: torch.export cannot trace a ResNet backbone for images of any size" in result.out


def test_int8_is_calibrated_on_training_images_and_compared_on_validation_images(run, trained, needs_onnx, monkeypatch):
    monkeypatch.setattr(int8, "MIN_AGREEMENT", 0.0)  # five steps of training
    monkeypatch.setattr(int8, "MAX_MIOU_LOSS", 1.0)
    seen = []

    def quantized(proto, images):
        seen.extend(images)
        return quantize(proto, seen)

    monkeypatch.setattr(int8, "quantize", quantized)
    words = ("format=int8", "calibration_images=4", "validation_images=2", "data.num_workers=0")
    result = run("scripts/export.py", "checkpoint=first", "output=model.onnx", *words)
    assert result.code == 0, result.out
    assert "int8 on 2 images of val: " in result.out
    assert b"QuantizeLinear" in (trained.parent / "model.onnx").read_bytes()
    assert [image.shape for image in seen] == [(1, 3, 32, 32)] * 4
    train = Shapes(None, "train", size=32, num_images={"train": 12, "val": 3, "test": 2})
    assert all(torch.equal(image[0], train[3 * k]["image"]) for k, image in enumerate(seen))


def test_int8_that_costs_too_much_is_refused():
    val = Shapes(None, "val", size=32, num_images={"train": 1, "val": 3, "test": 1})
    truth = {bytes(item["image"].numpy()): item["mask"] for item in val}

    def perfect(images):
        return (torch.stack([truth[bytes(image.numpy())] for image in images]),)

    def wrong(rows):
        def run(images):
            (classes,) = perfect(images)
            classes = classes.clone()
            classes[:, :rows] = (classes[:, :rows] + 1) % len(val.classes)
            return (classes,)

        return run

    loss = int8.check_int8(perfect, perfect, val, None, 0)
    assert (loss.images, loss.agreement, loss.miou, loss.int8_miou) == (3, 1.0, 1.0, 1.0)
    with pytest.raises(UserError, match=r"on 3 images 0\.9688 of the classes agree .* \(at least 0\.99\)"):
        int8.check_int8(perfect, wrong(1), val, None, 0)


def network(images):
    """Scores that are smooth functions of the pixels."""
    x = images.float() / 255
    scores = torch.stack([x[:, 0], 1 - x[:, 0], x.mean(1)], dim=1)
    return scores.argmax(1).to(torch.uint8), scores


def check(exported, run_network=network):
    return parity.check_parity(run_network, exported, 3, torch.uint8, "format=onnx")


def test_the_size_at_which_a_file_differs_is_named():
    def exported(images):
        classes, scores = network(images)
        if tuple(images.shape[-2:]) == (65, 129):
            scores = scores + 0.002 * (scores == scores.max())
        return classes, scores

    assert [result.passed for result in check(network)] == [True] * len(parity.SIZES)
    with pytest.raises(UserError, match=r"differs from the network at 1 x 65 x 129 .* 2\.0e-03 of their range"):
        check(exported)


def test_wrong_classes_fail_though_scores_agree():
    def exported(images):
        classes, scores = network(images)
        classes[..., :1, :2] = 2 - classes[..., :1, :2]
        classes[..., :1, 2:4] += 1
        return classes, scores

    with pytest.raises(UserError, match="of the classes agree"):
        check(exported)


def test_pixels_that_rounding_decides_are_excused_and_others_not():
    def undecided(images):
        """A pixel's class depends on the sign of its rounding error."""
        _, scores = network(images)
        jump = (images[:, 0].float() - images[:, 0].float().round()) > 0
        scores[:, 0] += jump * 1.0 * (torch.arange(images.shape[-1]) < 3)
        return scores.argmax(1).to(torch.uint8), scores

    def exported(images):
        return undecided(images.float() + 1e-5)

    assert sum(result.ties for result in check(exported, undecided)) > 0
    with pytest.raises(UserError, match="differs from the network"):
        check(exported, network)


def test_a_file_that_gives_nan_fails():
    def exported(images):
        classes, scores = network(images)
        return classes, scores * float("nan")

    with pytest.raises(UserError, match="differs from the network at 1 x 33 x 47"):
        check(exported)
