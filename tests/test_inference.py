"""Other strides, shift-and-stitch, postprocessing and pictures of what is inside a network."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, composed
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from segframe.config.instantiate import instantiate
from segframe.data.datasets.shapes import Shapes
from segframe.errors import UserError
from segframe.inference.base import classify, stride_of
from segframe.inference.predict import choose_classes, class_folders, find_images
from segframe.inference.shift_and_stitch import ShiftAndStitch, interlace
from segframe.inference.whole_image import WholeImage
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.build import build_segmenter
from segframe.models.from_checkpoint import restore
from segframe.models.heads.base import Head
from segframe.models.logits import Logits
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights import checkpoint

NAMES = ("k0", "k1", "k2")


def stored(tmp_path, *overrides, classes=NAMES):
    """A checkpoint of an untrained network, and that network."""
    torch.manual_seed(0)
    config = composed(*overrides)
    segmenter = build_segmenter(config, len(classes)).eval()
    metadata = checkpoint.CheckpointMetadata(
        OmegaConf.to_container(config, resolve=True), classes, ((0, 0, 0),) * len(classes)
    )
    state = {f"segmenter.{name}": tensor for name, tensor in segmenter.state_dict().items()}
    torch.save(
        {
            "state_dict": state,
            checkpoint.KEY: checkpoint.describe(OmegaConf.create(metadata.config), metadata.classes, metadata.palette),
        },
        tmp_path / "x.ckpt",
    )
    return segmenter


def test_each_image_has_a_name_of_its_own(tmp_path):
    for name in ("x.jpg", "x.png", "x.jpg.png", "x.jpg.png.bmp", "y.png", "y.bmp.png", "deep/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {str(path.relative_to(tmp_path)): str(name) for path, name in find_images(tmp_path, tmp_path / "o").items()}
    assert found == {
        "deep/x.jpg": "deep/x",
        "x.jpg": "x.jpg",
        "x.jpg.png": "x.jpg.png",
        "x.jpg.png.bmp": "x.jpg.png.bmp",
        "x.png": "x.png",
        "y.bmp.png": "y.bmp",
        "y.png": "y",
    }


def images(height=64, width=64, n=1):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# Another output stride


def test_a_network_is_restored_at_another_output_stride(tmp_path):
    trained = stored(tmp_path, "backbone=resnet18", "head=deeplabv3plus", "head.rates=[6,12,18]")
    same = restore(tmp_path / "x.ckpt", 16).segmenter
    with torch.no_grad():
        assert torch.equal(same(images()), trained(images()))
    dense = restore(tmp_path / "x.ckpt", 8).segmenter
    assert dense.backbone.features["c5"].stride == 8
    assert [conv[0].dilation[0] for conv in dense.head.aspp.convs[1:4]] == [12, 24, 36]
    with torch.no_grad():
        coarse, fine = (n.backbone(n.normalize(images()))["c5"] for n in (trained, dense))
    torch.testing.assert_close(fine[..., ::2, ::2], coarse)


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9])])
@pytest.mark.parametrize("head", ["deeplabv3", "deeplabv3plus"])
def test_explicit_rates_follow_the_backbones_stride(head, stride, rates):
    overrides = ("head.output_stride=16", f"backbone.output_stride={stride}", "head.rates=[6,12,18]")
    with torch.device("meta"):
        aspp = build_segmenter(composed("backbone=resnet18", f"head={head}", *overrides), 3).head.aspp
    assert [conv[0].dilation[0] for conv in aspp.convs[1:4]] == rates


def test_weights_that_belong_to_a_stride_are_named(tmp_path):
    stored(tmp_path, "backbone=resnet18", "head=fcn16s")
    with pytest.raises(
        UserError, match=r"output_stride=8: the trained head\.upscore\.\d\.weight \(3, 3, .* belongs to"
    ):
        restore(tmp_path / "x.ckpt", 8)
    with pytest.raises(UserError, match=r"backbone\.output_stride must be 4, 8, 16 or 32, got 7"):
        restore(tmp_path / "x.ckpt", 7)


def test_a_backbone_without_output_stride_is_named(tmp_path):
    stored(tmp_path, "model=unet", "backbone.channels=[4,4,4,4,4]")
    with pytest.raises(UserError, match=r"output_stride=8: segframe\.backbones\.unet\.UNetEncoder has a fixed out"):
        restore(tmp_path / "x.ckpt", 8)


# Shift-and-stitch


class Unpadded(Backbone):
    """Three unpadded convolutions and two poolings; `dense` of these, the last ones, are dilated instead."""

    def __init__(self, dense):
        super().__init__()
        self.lr_multiplier = 1.0
        layers, channels, spacing = [], 3, 1
        for k in range(3):
            layers += [nn.Conv2d(channels, 8, 3, dilation=spacing), nn.Tanh()]
            if k < 2:
                dilated = k >= 2 - dense
                layers.append(nn.MaxPool2d(2, stride=1 if dilated else 2, dilation=spacing))
                spacing *= 2 if dilated else 1
            channels = 8
        self.layers = nn.Sequential(*layers)
        self.features = {"c5": Feature(8, 4 // spacing, 0.0)}

    def forward(self, images):
        return {"c5": self.layers(images)}


class Scores(Head):
    """A 1x1 convolution."""

    def __init__(self, channels, aligned_stride=None):
        super().__init__()
        self.score = nn.Conv2d(channels, 3, 1)
        self.aligned_stride = aligned_stride

    def forward(self, maps, size):
        return Logits(self.score(maps["c5"]), size, self.aligned_stride)


def twins(make):
    """The coarse network and its dilated twin with the same weights; `make(dilated)` is their backbone."""
    torch.manual_seed(0)
    pair = []
    for backbone in (make(False), make(True)):
        head = Scores(backbone.features["c5"].channels, backbone.features["c5"].stride)
        pair.append(Segmenter(backbone, head, None, Normalize([120.0] * 3, [60.0] * 3)).eval())
    pair[1].load_state_dict(pair[0].state_dict())
    return pair


@pytest.mark.parametrize("size", [(64, 64), (61, 47), (50, 83)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_shift_and_stitch_equals_the_dilated_network(factor, size):
    coarse, dense = twins(lambda dilated: Unpadded({1: 0, 2: 1, 4: 2}[factor] if dilated else 0))
    with torch.inference_mode():
        found = ShiftAndStitch(factor)(coarse, images(*size, n=2))
        expected = WholeImage()(dense, images(*size, n=2))
    assert (found.size, found.aligned_stride) == (expected.size, expected.aligned_stride)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-5)


def test_shift_and_stitch_of_a_padded_network_differs_at_the_upper_and_left_border_only():
    def make(dilated):
        return instantiate(composed("backbone=vgg11", f"backbone.output_stride={16 if dilated else 32}").backbone, "x")

    coarse, dense = twins(make)
    with torch.inference_mode():
        found = ShiftAndStitch(2)(coarse, images(225, 243)).values
        expected = WholeImage()(dense, images(225, 243)).values
    assert found.shape == expected.shape == (1, 3, 15, 16)
    assert not torch.allclose(found[..., :4, :4], expected[..., :4, :4], atol=1e-3)
    torch.testing.assert_close(found[..., 4:, 4:], expected[..., 4:, 4:])


@pytest.mark.parametrize(("head", "stride"), [("fcn", 32), ("deeplabv3plus", 4)])
def test_coarse_heads_can_be_stitched_at_any_size(head, stride):
    torch.manual_seed(0)
    overrides = ("backbone=resnet18", f"head={head}", "backbone.output_stride=32")
    segmenter = build_segmenter(composed(*overrides), 3).eval()
    stitch = ShiftAndStitch(4)
    with torch.inference_mode():
        for height, width in ((32, 45), (3, 33)):
            found = stitch(segmenter, images(height, width))
            assert found.values.shape[-2:] == (-(-height * 4 // stride), -(-width * 4 // stride))
            assert found.size == (height, width)
            assert torch.equal(found.values[..., ::4, ::4], WholeImage()(segmenter, images(height, width)).values)
    assert stride_of(segmenter) == stride


def test_what_cannot_be_stitched_is_told():
    coarse, _ = twins(lambda dilated: Unpadded(0))
    with pytest.raises(UserError, match=r"inference\.factor=3 does not divide the stride of this network, 4"):
        ShiftAndStitch(3)(coarse, images())
    segmenter = build_segmenter(composed("backbone=resnet18", "head=fcn32s"), 3).eval()
    with pytest.raises(UserError, match="needs a head with coarse logits"):
        ShiftAndStitch(2)(segmenter, images())
    with pytest.raises(UserError, match=r"inference\.factor must be at least 1, got 0"):
        ShiftAndStitch(0)
    with pytest.raises(UserError, match="cannot be interlaced"):
        interlace([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 2)], dim=2)


def test_interlacing_takes_in_turn():
    parts = [torch.tensor([[[[0, 3]]]]), torch.tensor([[[[1, 4]]]]), torch.tensor([[[[2]]]])]
    assert interlace(parts, dim=3).flatten().tolist() == [0, 1, 2, 3, 4]


# Postprocessing


def test_postprocessing_sees_image_and_probabilities():
    logits = Logits(torch.randn(2, 3, 5, 6), (10, 12), aligned_stride=None)
    batch = images(10, 12, n=2)
    seen = []

    def keep(image, probabilities):
        seen.append((image, probabilities))
        return probabilities

    assert torch.equal(classify(logits, batch, keep), logits.classes())
    for k, (image, probabilities) in enumerate(seen):
        assert np.array_equal(image, batch[k].permute(1, 2, 0).numpy())
        assert (image.dtype, probabilities.dtype) == (np.uint8, np.float32)
        np.testing.assert_allclose(probabilities, logits.full()[k].softmax(0), rtol=1e-5)
    first = classify(logits, batch, lambda image, probabilities: probabilities * [[[1]], [[0]], [[0]]])
    assert first.sum() == 0
    assert first.dtype == torch.uint8


# Pictures


def test_classes_of_heat_maps():
    assert choose_classes("all", NAMES) == [0, 1, 2]
    assert choose_classes("k1", NAMES) == [1]
    assert choose_classes(["k2", "k0"], NAMES) == [2, 0]
    assert choose_classes([], NAMES) == choose_classes(None, NAMES) == []
    with pytest.raises(UserError, match=r"heatmaps=k: the checkpoint knows no such class; did you mean k0\?"):
        choose_classes(["k"], ("k0", "road"))


def test_folders_of_heat_maps():
    names = ("a/b", "a_b", "road", "", "  ", "..", "Sky", "sky", "道路", "x" * 300)
    folders = class_folders(names)
    assert folders[:4] == ["a_b (0)", "a_b (1)", "road", "(3)"]
    assert folders[4:9] == ["(4)", "_", "Sky (6)", "sky (7)", "道路"]
    assert folders[9] == "x" * 50


# From the command line


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(images(45, 61)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    return "input=a.png"


def test_predict_shows_what_is_inside(run, tmp_path, photo):
    stored(tmp_path, "backbone=resnet18", "head=fcn")
    more = ("heatmaps=[k2]", "feature_maps=true", "feature_channels=5", "output_stride=16")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", photo, "output=out", *more)
    assert result.code == 0, result.out
    assert [path.name for path in (tmp_path / "out/heatmaps").iterdir()] == ["k2"]
    assert (tmp_path / "out/heatmaps/k2/a.png").is_file()
    assert {p.name for p in (tmp_path / "out/features/a").iterdir()} == {f"c{k}.png" for k in range(1, 6)}
    assert (tmp_path / "out/overlay/a.png").is_file()
    stitched = run("scripts/predict.py", "checkpoint=x.ckpt", photo, "output=two", "inference=shift_and_stitch")
    assert stitched.code == 0, stitched.out
    assert not (tmp_path / "two/heatmaps").exists()
    assert not (tmp_path / "two/features").exists()


def test_evaluate_tells_how_it_measured(run, tmp_path):
    stored(tmp_path, *TINY, classes=Shapes.classes)
    how = ("inference=shift_and_stitch", "inference.factor=4", "output_stride=16")
    result = run("scripts/evaluate.py", "checkpoint=x.ckpt", "accelerator=cpu", *how, "output_dir=a")
    assert result.code == 0, result.out
    found = json.loads((tmp_path / "a/metrics.json").read_text())
    assert (found["inference"], found["postprocess"], found["output_stride"]) == ("shift_and_stitch", "none", 16)


WRONG = [
    ("inference=sliding", "inference=sliding: there is no such option"),
    ("postprocess=crf", "postprocess=crf: there is no such option"),
    ("inference.factor=2", "inference.factor is not a setting"),
    ("+inference.factor=2", "inference.factor: segframe.inference.WholeImage takes no such argument"),
    ("output_strid=8", "output_strid is not a setting; did you mean output_stride?"),
    ("output_stride=7", "backbone.output_stride must be 4, 8, 16 or 32, got 7"),
    ("output_stride=8", "belongs to one output stride"),
    ("inference=shift_and_stitch", "needs a head with coarse logits"),
    ("heatmaps=5", "heatmaps=5: the checkpoint knows no such class; there is k0, "),
    ("heatmaps=[[k0]]", "heatmaps=[['k0']]: give a list of class names, one name, or all"),
    ("heatmaps=[k0,k11]", "heatmaps=k11: the checkpoint knows no such class; did you mean k1?"),
    ("feature_map=true", "feature_map is not a setting; did you mean feature_maps?"),
    ("feature_channels=0", "feature_channels must be at least 1, got 0"),
]


def test_one_sentence_each(run, tmp_path, photo):
    stored(tmp_path, "backbone=resnet18", "head=fcn8s")
    for word, sentence in WRONG:
        result = run("scripts/predict.py", "checkpoint=x.ckpt", photo, "output=out", word)
        assert result.code == 1, word
        lines = [line for line in result.out.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, result.out
        assert sentence in lines[0]
        assert "Traceback" not in result.out
