"""Other projects' weights: every tensor finds its place, and the network gives the answers of the original."""

import numpy as np
import pytest
import torch
from conftest import agree, composed, initialize_from
from omegaconf import OmegaConf
from references import load, state
from test_backbones import random_statistics
from test_checkpoint import SMALL, small_checkpoint
from torchvision.models import segmentation

from segframe.errors import UserError
from segframe.models.build import build_normalize, build_segmenter
from segframe.models.weights import checkpoint
from segframe.models.weights.third_party import load_what_fits, read_weights

CLASSES = tuple(f"k{k}" for k in range(21))


def loaded(monkeypatch, content, *overrides):
    """A network with the weights of a file that holds `content`, all of them and nothing else; and their origin."""
    monkeypatch.setattr(checkpoint, "load_file", lambda path: content)
    segmenter = build_segmenter(composed(*overrides), 21)
    weights = read_weights("file.pth")
    assert load_what_fits(segmenter, weights.state) == ([], [])
    config = composed(*overrides)
    assert all(OmegaConf.select(config, key) == value for key, value in weights.expects.items())
    segmenter.normalize = build_normalize(OmegaConf.create(weights.normalize))
    return segmenter.eval(), weights.origin


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
@pytest.mark.parametrize("head", ["deeplabv3", "fcn"])
def test_torchvision(monkeypatch, head, backbone, aux):
    torch.manual_seed(0)
    make = getattr(segmentation, f"{head}_{backbone}")
    theirs = random_statistics(make(weights=None, weights_backbone=None, num_classes=21, aux_loss=aux))
    overrides = (f"backbone={backbone}", f"head={head}", f"aux_head={'fcn' if aux else 'none'}")
    ours, origin = loaded(monkeypatch, theirs.state_dict(), *overrides)
    assert origin.startswith("torchvision's")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    images = torch.rand(1, 3, 65, 97) * 255
    with torch.no_grad():
        expected = theirs(ours.normalize(images))
        agree(ours(images), expected["out"])
        if aux:
            ours.train()
            for layer in ours.modules():
                if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.Dropout):
                    layer.eval()
            agree(ours.outputs(images)["aux"].full(), expected["aux"])


@pytest.mark.parametrize(
    ("name", "overrides", "answer", "origin"),
    [
        ("fcn32s", ["model=fcn32s_original"], "eval", "pytorch-fcn's FCN-32s"),
        ("fcn16s", ["model=fcn16s_original"], "eval", "pytorch-fcn's FCN-16s"),
        ("fcn8s", ["model=fcn8s_original"], "eval", "pytorch-fcn's FCN-8s"),
        ("fcn8s_atonce", ["model=fcn8s-atonce_original"], "eval", "pytorch-fcn's FCN-8s"),
        ("vainf_deeplabv3_resnet50", ["model=deeplabv3"], "os8", "VainF's DeepLabV3 "),
        ("vainf_deeplabv3_resnet50", ["model=deeplabv3", "head.output_stride=16"], "os16", "VainF's DeepLabV3 "),
        (
            "vainf_deeplabv3_resnet101",
            ["model=deeplabv3", "backbone=resnet101", "head.output_stride=16"],
            "os16",
            "VainF's DeepLabV3 ",
        ),
        *(
            (
                f"vainf_deeplabv3plus_{backbone}",
                [f"backbone={backbone}", "head=deeplabv3plus_vainf", f"head.output_stride={stride}"],
                f"os{stride}",
                "VainF's DeepLabV3+ ",
            )
            for backbone in ("resnet50", "resnet101")
            for stride in (16, 8)
        ),
        ("unet", ["model=unet"], "eval", "milesial's U-Net"),
        ("unet_bilinear", ["model=unet_bilinear"], "eval", "milesial's U-Net"),
        ("deeplabv2_resnet101", ["model=deeplabv2"], "eval", "deeplab-pytorch's DeepLab v2"),
    ],
)
def test_equal_to_the_reference(monkeypatch, name, overrides, answer, origin):
    reference = load(name)
    ours, found = loaded(monkeypatch, state(reference), *overrides)
    assert found.startswith(origin)
    step = reference.step[answer]
    with torch.no_grad():
        agree(ours(reference.images)[..., ::step, ::step], reference.logits[answer])


def test_deeplabv2_trains_on_every_scale_and_their_maximum(monkeypatch):
    reference = load("deeplabv2_resnet101")
    ours, _ = loaded(monkeypatch, state(reference), "model=deeplabv2", "batch_norm.frozen=all")
    with torch.no_grad():
        outputs = ours.train().outputs(reference.images)
    names = {"main": "train_max", "scale_100": "train_1", "scale_75": "train_0.75", "scale_50": "train_0.5"}
    assert outputs.keys() == names.keys()
    for ours_, theirs in names.items():
        step = reference.step[theirs]
        agree(outputs[ours_].values[..., ::step, ::step], reference.logits[theirs])


def test_files_as_they_are_written(tmp_path):
    """Wrapped as VainF, DistributedDataParallel and milesial do, numpy scores and other entries beside the weights."""
    segmenter = build_segmenter(composed("backbone=resnet50", "head=deeplabv3plus_vainf"), 21)
    reference = load("vainf_deeplabv3plus_resnet50")
    wrapped = {f"module.{name}": tensor for name, tensor in state(reference).items()}
    torch.save({"cur_itrs": 3, "model_state": wrapped, "best_score": np.float64(0.7)}, tmp_path / "vainf.pth")
    weights = read_weights(tmp_path / "vainf.pth")
    assert load_what_fits(segmenter, weights.state) == ([], [])
    torch.save({**state(load("unet")), "mask_values": [0, 1]}, tmp_path / "unet.pth")
    segmenter = build_segmenter(composed("model=unet"), 21)
    weights = read_weights(tmp_path / "unet.pth")
    assert load_what_fits(segmenter, weights.state) == ([], [])
    assert weights.normalize["std"] == [255.0] * 3


def test_what_is_recognised_is_told_and_images_are_normalised_alike(tmp_path, caplog):
    torch.save(state(load("unet")), tmp_path / "unet.pth")
    config = composed("model=unet", f"init_from={tmp_path / 'unet.pth'}")
    segmenter = build_segmenter(config, 5)
    with caplog.at_level("INFO"):
        initialize_from(segmenter, config, CLASSES[:5])
    assert "milesial's U-Net (model=unet, or unet_bilinear)" in caplog.text
    assert "left out: head.classifier.weight (21, 64, 1, 1), here (5, 64, 1, 1)" in caplog.text
    assert "images are normalised as these weights expect" in caplog.text
    assert config.normalize == {"mean": [0, 0, 0], "std": [255, 255, 255], "bgr": False}
    assert segmenter.normalize.std.eq(255).all()


def test_what_the_weights_need_is_told(monkeypatch, caplog, tmp_path):
    torch.save(state(load("deeplabv2_resnet101")), tmp_path / "v2.pth")
    config = composed("backbone=resnet101", "head=deeplabv2", f"init_from={tmp_path / 'v2.pth'}")
    with caplog.at_level("INFO"):
        initialize_from(build_segmenter(config, 21), config, CLASSES)
    assert "these weights were trained with backbone.caffe_form=True, here it is False" in caplog.text
    assert "these weights were trained with input_scales=[0.75, 0.5], here it is []" in caplog.text


def test_an_unknown_file_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"neither a segframe checkpoint nor one of these: VainF's .*U-Net"):
        read_weights(tmp_path / "other.pth")


def test_load_what_fits():
    net = torch.nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(4), "x": torch.ones(1)}
    left_out, untouched = load_what_fits(net, state)
    assert left_out == ["bias (4,), here (3,)", "x (1,), not in this network"]
    assert untouched == ["bias"]
    assert net.weight.eq(1).all()
    left_out, _ = load_what_fits(net, {"bias": torch.ones(3)}, ("bias",))
    assert left_out == ["bias (3,), of other classes"]
    assert not net.bias.eq(1).all()


@pytest.mark.parametrize(("classes", "kept"), [(("k0", "k1", "k2"), True), (("a", "b", "c"), False)])
def test_scores_of_other_classes_are_left_out(tmp_path, caplog, classes, kept):
    trained, content = small_checkpoint("normalize=caffe")
    torch.save(content, tmp_path / "x.ckpt")
    config = composed(*SMALL, f"init_from={tmp_path / 'x.ckpt'}", "seed=1")
    other = build_segmenter(config, 3)
    with caplog.at_level("INFO"):
        initialize_from(other, config, classes)
    assert torch.equal(other.head.conv[0][0].weight, trained.head.conv[0][0].weight)
    assert torch.equal(other.head.classifier.weight, trained.head.classifier.weight) == kept
    assert ("left out: head.classifier.weight (3, 4, 1, 1), of other classes" in caplog.text) != kept
    assert config.normalize.bgr
    assert other.normalize.bgr


def test_weights_of_another_backbone_are_refused(tmp_path):
    _, content = small_checkpoint()
    torch.save(content, tmp_path / "x.ckpt")
    config = composed("backbone=resnet18", "head=fcn", f"init_from={tmp_path / 'x.ckpt'}")
    with pytest.raises(UserError, match="no tensor of its backbone fits this backbone"):
        initialize_from(build_segmenter(config, 3), config, ("a", "b", "c"))
