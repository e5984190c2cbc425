"""Other projects' weights: every tensor is used, and the network gives the logits of the original."""

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

DEEPLAB101 = ("backbone=resnet101", "head.output_stride=16")
PLUS50 = ("backbone=resnet50", "head=deeplabv3plus_vainf")
CLASSES = tuple(f"k{k}" for k in range(21))


def loaded(monkeypatch, content, *overrides):
    """A network with all weights of a file that holds `content`, and the file's origin."""
    monkeypatch.setattr(checkpoint, "find_checkpoint", lambda path: path)
    monkeypatch.setattr(checkpoint, "load_file", lambda path: content)
    segmenter = build_segmenter(composed(*overrides), 21)
    weights = read_weights("file.pth")
    assert load_what_fits(segmenter, weights.state) == []
    missing = segmenter.state_dict().keys() - weights.state.keys()
    assert all(name.startswith("normalize.") for name in missing), missing
    config = composed(*overrides)
    assert all(OmegaConf.select(config, key) == value for key, value in weights.expects.items())
    segmenter.normalize = build_normalize(OmegaConf.create(weights.normalize))
    return segmenter.eval(), weights.origin


@pytest.mark.parametrize(
    ("head", "backbone", "aux"),
    [("deeplabv3", "resnet50", True), ("fcn", "resnet50", False), ("fcn", "resnet101", True)],
)
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


def slow(*values):
    """A network of which a smaller or a later one of the same kind is tested by default."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "overrides", "output", "origin"),
    [
        slow("fcn32s", ["model=fcn32s_original"], "eval", "pytorch-fcn's FCN-32s"),
        slow("fcn16s", ["model=fcn16s_original"], "eval", "pytorch-fcn's FCN-16s"),
        ("fcn8s", ["model=fcn8s_original"], "eval", "pytorch-fcn's FCN-8s"),
        slow("fcn8s_atonce", ["model=fcn8s-atonce_original"], "eval", "pytorch-fcn's FCN-8s"),
        ("vainf_deeplabv3_resnet50", ["model=deeplabv3"], "os8", "VainF's DeepLabV3 "),
        slow("vainf_deeplabv3_resnet101", [*DEEPLAB101, "head=deeplabv3"], "os16", "VainF's DeepLabV3 "),
        slow("vainf_deeplabv3plus_resnet101", [*DEEPLAB101, "head=deeplabv3plus_vainf"], "os16", "VainF's DeepLabV3+ "),
        slow("vainf_deeplabv3plus_resnet50", [*PLUS50, "head.output_stride=8"], "os8", "VainF's DeepLabV3+ "),
        ("vainf_deeplabv3plus_resnet50", [*PLUS50, "head.output_stride=16"], "os16", "VainF's DeepLabV3+ "),
        ("unet", ["model=unet"], "eval", "milesial's U-Net"),
        ("unet_bilinear", ["model=unet_bilinear"], "eval", "milesial's U-Net"),
        ("deeplabv2_resnet101", ["model=deeplabv2"], "eval", "deeplab-pytorch's DeepLab v2"),
    ],
)
def test_logits_equal_the_reference(monkeypatch, name, overrides, output, origin):
    reference = load(name)
    ours, found = loaded(monkeypatch, state(reference), *overrides)
    assert found.startswith(origin)
    step = reference.step[output]
    with torch.no_grad():
        agree(ours(reference.images)[..., ::step, ::step], reference.logits[output])


def test_deeplabv2_outputs_every_scale_and_their_maximum(monkeypatch):
    reference = load("deeplabv2_resnet101")
    ours, _ = loaded(monkeypatch, state(reference), "model=deeplabv2", "batch_norm.frozen=all")
    with torch.no_grad():
        outputs = ours.train().outputs(reference.images)
    names = {"main": "train_max", "scale_100": "train_1", "scale_75": "train_0.75", "scale_50": "train_0.5"}
    assert outputs.keys() == names.keys()
    for name, theirs in names.items():
        step = reference.step[theirs]
        agree(outputs[name].values[..., ::step, ::step], reference.logits[theirs])


def test_wrapped_state_dicts_are_read(tmp_path):
    """Wrapped as VainF, DistributedDataParallel and milesial do, numpy scores and other entries beside the weights."""
    reference = load("vainf_deeplabv3plus_resnet50")
    wrapped = {f"module.{name}": tensor for name, tensor in state(reference).items()}
    torch.save({"cur_itrs": 3, "model_state": wrapped, "best_score": np.float64(0.7)}, tmp_path / "vainf.pth")
    torch.save({**state(load("unet")), "mask_values": [0, 1]}, tmp_path / "unet.pth")
    for name, overrides, std in (("vainf", PLUS50, [58.395, 57.12, 57.375]), ("unet", ["model=unet"], [255.0] * 3)):
        weights = read_weights(tmp_path / f"{name}.pth")
        with torch.device("meta"):
            segmenter = build_segmenter(composed(*overrides), 21)
        assert weights.state.keys() == {n for n in segmenter.state_dict() if not n.startswith("normalize.")}
        assert weights.normalize["std"] == std


def test_origin_and_score_layers_are_logged_and_normalisation_follows(tmp_path, caplog):
    torch.save(state(load("unet")), tmp_path / "unet.pth")
    config = composed("model=unet", f"init_from={tmp_path / 'unet.pth'}")
    segmenter = build_segmenter(config, 5)
    with caplog.at_level("INFO"):
        initialize_from(segmenter, config, CLASSES[:5])
    assert "milesial's U-Net (model=unet, or unet_bilinear)" in caplog.text
    assert "left out: head.classifier.weight (21, 64, 1, 1), here (5, 64, 1, 1)" in caplog.text
    assert config.normalize == {"mean": [0, 0, 0], "std": [255, 255, 255], "bgr": False}
    assert segmenter.normalize.std.eq(255).all()


def test_settings_the_weights_were_trained_with_are_logged(caplog, tmp_path):
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
    assert load_what_fits(net, state) == ["bias (4,), here (3,)", "x (1,), not in this network"]
    assert net.weight.eq(1).all()
    assert load_what_fits(net, {"bias": torch.ones(3)}, ("bias",)) == ["bias (3,), of other classes"]
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


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("head.upsampling=bilinear", r"2 of its tensors are none of this network's \(head\.up\.0.*choose the head"),
        ("head._target_=mine.Head", None),
    ],
)
def test_a_head_is_initialized_whole_or_not_at_all(word, message, tmp_path, caplog):
    _, content = small_checkpoint()
    torch.save(content, tmp_path / "x.ckpt")
    config = composed(*SMALL, "head.upsampling=bilinear", f"init_from={tmp_path / 'x.ckpt'}")
    other = build_segmenter(config, 3)
    before = {name: tensor.clone() for name, tensor in other.head.state_dict().items()}
    OmegaConf.update(config, *word.split("="))
    with caplog.at_level("INFO"):
        if message is None:
            initialize_from(other, config, ("k0", "k1", "k2"))
            assert "head: it starts at random: " in caplog.text
            assert all(torch.equal(tensor, before[name]) for name, tensor in other.head.state_dict().items())
        else:
            with pytest.raises(UserError, match=message):
                initialize_from(other, config, ("k0", "k1", "k2"))


def test_weights_of_another_backbone_are_refused(tmp_path):
    _, content = small_checkpoint()
    torch.save(content, tmp_path / "x.ckpt")
    config = composed("backbone=resnet18", "head=fcn", f"init_from={tmp_path / 'x.ckpt'}")
    with pytest.raises(
        UserError, match=r"it has no tensor backbone\.conv1\.weight .* choose the backbone of these weights"
    ):
        initialize_from(build_segmenter(config, 3), config, ("a", "b", "c"))
