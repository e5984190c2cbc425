"""FCN's skip decoder: the papers' geometry and initial weights."""

import numpy as np
import pytest
import torch
from conftest import build_network, composed

from segframe.models.backbones.base import Feature
from segframe.models.build import build_backbone
from segframe.models.heads.fcn import FCN, bilinear_kernel


@pytest.mark.parametrize(
    ("backbone", "head", "stride"),
    [("resnet18", "fcn32s", 16), ("vgg11", "fcn16s", 4), ("vgg16_fc", "fcn8s", 8), ("vgg16_fc_original", "fcn8s", 4)],
)
def test_skip_decoder_reads_dilated_backbones(backbone, head, stride):
    with torch.device("meta"):
        segmenter = build_network(f"backbone={backbone}", f"head={head}", f"backbone.output_stride={stride}", classes=3)
        for size in ((32, 32), (33, 101), (97, 50)):
            assert segmenter(torch.empty(1, 3, *size)).shape == (1, 3, *size)


def vgg_original_sizes(n):
    """Map sizes of the papers' VGG for an image side n."""
    n += 198
    sizes = []
    for _ in range(5):
        n = -(-n // 2)
        sizes.append(n)
    return {"c3": sizes[2], "c4": sizes[3], "c5": sizes[4] - 6}


@pytest.mark.parametrize("reads", [["c5"], ["c5", "c4"], ["c5", "c4", "c3"]])
def test_original_fcn_covers_images_of_any_size(reads):
    """The sizes of maps, crops and transposed convolutions by exact arithmetic, and published crop offsets."""
    with torch.device("meta"):
        backbone = build_backbone(composed("model=fcn8s_original"))
        head = FCN(backbone.features, 1, 32, reads, "none", 1.0)
    offsets = {1: [(19, 0)], 2: [(0, 5), (27, 0)], 3: [(0, 5), (0, 9), (31, 0)]}
    assert head.crops == offsets[len(reads)]
    for n in range(1, 3001):
        sizes = vgg_original_sizes(n)
        size = sizes["c5"]
        for k, deconv in enumerate(head.upscore):
            size = (size - 1) * deconv.stride[0] + deconv.kernel_size[0]
            own, other = head.crops[k]
            if k + 1 < len(reads):
                assert sizes[reads[k + 1]] - other >= size, f"skip too small at {n}"
            else:
                assert size - own >= n, f"image not covered at {n}"


def test_fcn_alexnet_is_cropped_as_released():
    """A 63x63 kernel and a crop at 18, and the whole image is covered at every size."""
    with torch.device("meta"):
        network = build_network("model=fcn_alexnet_original", "backbone.fc_channels=1", classes=2)
        assert network.head.upscore[0].kernel_size == (63, 63)
        assert network.head.crops == [(18, 0)]
        for n in (32, 37, 224, 500):
            c5 = network.backbone(torch.empty(1, 3, n, n))["c5"].shape[-1]
            assert (c5 - 1) * 32 + 63 - 18 >= n


def test_map_sizes_of_the_original_are_as_computed():
    with torch.device("meta"):
        backbone = build_backbone(composed("model=fcn8s_original"))
        for n in (1, 37, 64, 500):
            maps = backbone(torch.empty(1, 3, n, n))
            assert {key: maps[key].shape[-1] for key in ("c3", "c4", "c5")} == vgg_original_sizes(n)


@pytest.mark.parametrize(
    "backbone", ["vgg11", "resnet18", "vgg16_fc", "vgg16_fc_original", "alexnet_fc", "alexnet_fc_original"]
)
def test_skip_decoder_aligns_scores_with_the_image(backbone):
    """Maps that hold a ramp over the image's coordinates give the same ramp as logits."""
    size = 160
    with torch.device("meta"):
        features = build_backbone(composed(f"backbone={backbone}", "head.output_stride=32"))
        shapes = {key: m.shape for key, m in features(torch.empty(1, 3, size, size)).items()}
        features = features.features
    head = FCN({k: Feature(1, f.stride, f.offset) for k, f in features.items()}, 1, 32, ["c5", "c4", "c3"], "none", 1.0)
    for layer in head.score.values():
        torch.nn.init.ones_(layer.weight)
    maps = {}
    for key in ("c3", "c4", "c5"):
        line = torch.arange(shapes[key][-1]) * features[key].stride + features[key].offset
        maps[key] = line.expand(1, 1, shapes[key][-2], -1)
    found = head(maps, (size, size)).values[0, 0, size // 2, 40:-40]
    torch.testing.assert_close(found, 3 * torch.arange(40.0, size - 40.0), rtol=1e-4, atol=1e-3)


def test_upsampling_weights():
    head = FCN({"c5": Feature(4, 32, 15.5), "c4": Feature(4, 16, 7.5)}, 3, 32, ["c5", "c4"], "intermediate", 1.0)
    first, last = head.upscore
    assert first.weight.shape == (3, 3, 4, 4)
    assert last.weight.shape == (3, 3, 32, 32)
    assert (first.weight.requires_grad, last.weight.requires_grad) == (True, False)
    assert first.weight[0, 1].abs().sum() == 0
    torch.testing.assert_close(first.weight[1, 1], bilinear_kernel(4))
    np.testing.assert_allclose(bilinear_kernel(4)[0], np.array([0.25, 0.75, 0.75, 0.25]) * 0.25)
    np.testing.assert_allclose(bilinear_kernel(3)[1], [0.5, 1.0, 0.5])
    assert all(layer.weight.abs().sum() == 0 for layer in head.score.values())
