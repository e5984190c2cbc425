"""Networks found by other projects' tensors: they give the logits of the original."""

from pathlib import Path

import pytest
import torch
from conftest import agree
from references import load, state
from torchvision.models import segmentation

from segframe.data import VOC
from segframe.errors import UserError
from segframe.models.from_third_party import (
    NETWORKS,
    compose_network,
    count_classes,
    name_classes,
    network_shapes,
    restore_third_party,
)
from segframe.models.weights.third_party import FORMATS

FILE = Path("file.pth")


@pytest.mark.parametrize(
    ("name", "output"),
    [
        pytest.param("vainf_deeplabv3_resnet101", "os16", marks=pytest.mark.slow),
        ("vainf_deeplabv3plus_resnet50", "os16"),
        ("unet_bilinear", "eval"),
    ],
)
def test_logits_equal_the_reference(name, output):
    reference = load(name)
    restored = restore_third_party(state(reference), FILE)
    step = reference.step[output]
    with torch.no_grad():
        agree(restored.segmenter(reference.images)[..., ::step, ::step], reference.logits[output])
    assert restored.metadata.classes == (
        VOC.classes if name != "unet_bilinear" else tuple(f"class {k}" for k in range(21))
    )


def test_every_format_has_its_networks():
    """And each is told apart from the others of its format, with its number of classes."""
    assert {format_.origin.partition(" (")[0] for format_ in FORMATS} == set(NETWORKS)
    for project in ("torchvision's FCN", "pytorch-fcn's FCN-16s", "milesial's U-Net"):
        configs = [compose_network(settings) for settings in NETWORKS[project]]
        for config in configs:
            state = {name: torch.empty(shape, device="meta") for name, shape in network_shapes(config, 7).items()}
            state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
            assert [count_classes(other, state) for other in configs] == [7 if c is config else None for c in configs]


def test_an_output_stride_of_ones_own():
    reference = load("vainf_deeplabv3plus_resnet50")
    segmenter = restore_third_party(state(reference), FILE, output_stride=8).segmenter
    with torch.no_grad():
        step = reference.step["os8"]
        agree(segmenter(reference.images)[..., ::step, ::step], reference.logits["os8"])


def test_a_network_that_segframe_lacks():
    with torch.device("meta"):
        theirs = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    with pytest.raises(UserError, match="a file of torchvision's DeepLabV3, whose network is none of these: "):
        restore_third_party(theirs.state_dict(), FILE)


def test_names_of_classes():
    names, palette = name_classes("VainF's DeepLabV3", 19)
    assert (names[0], names[18], palette[0]) == ("road", "bicycle", (128, 64, 128))
    assert name_classes("milesial's U-Net", 2)[0] == ("background", "car")
    assert name_classes("torchvision's FCN", 2)[0] == ("class 0", "class 1")
