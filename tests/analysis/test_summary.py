"""Model summary: FLOPs by formula, receptive fields by the recursion of textbooks."""

import pytest
import torch
from conftest import composed, rows
from PIL import Image
from torch import nn

from segframe.analysis.gradient_support import GradientSupport
from segframe.analysis.model_counts import find_classes
from segframe.analysis.receptive_field import ReceptiveField, diameter, effective, theoretical
from segframe.analysis.summary import summarize
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.build import build_segmenter
from segframe.models.heads.base import Head
from segframe.models.logits import Logits
from segframe.models.segmenter import Normalize, Segmenter

SMALL = ("backbone=resnet18", "head=fcn", "effective_field.size=64", "effective_field.num_images=1")


class Layers(Backbone):
    """Any layers as the map c1."""

    def __init__(self, layers, channels, stride):
        super().__init__()
        self.layers = layers
        self.features = {"c1": Feature(channels, stride, 0.0)}

    def forward(self, images):
        return {"c1": self.layers(images)}


class Gate(nn.Module):
    """Squeeze and excitation."""

    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class Identity(Head):
    """The map as it is."""

    def forward(self, maps, size):
        return Logits(maps["c1"], size, aligned_stride=None)


def network(*layers):
    normalize = Normalize([0.0] * 3, [1.0] * 3)
    return Segmenter(Layers(nn.Sequential(*layers), 1, 1), Identity(), None, normalize).eval()


def field(*layers):
    return theoretical(network(*layers))["logits"]


def test_flops_by_formula():
    config = composed("backbone=vgg11", "head=fcn32s", "size=[64,96]", name="summary")
    convolutions = [(3, 64, 1), (64, 128, 2), (128, 256, 4), (256, 256, 4)]
    convolutions += [(256, 512, 8), (512, 512, 8), (512, 512, 16), (512, 512, 16)]
    flops = sum(2 * 9 * i * o * (64 // s) * (96 // s) for i, o, s in convolutions)
    flops += 2 * 512 * 5 * 2 * 3  # the scores of 2x3 cells
    flops += 2 * 5 * 5 * 64 * 64 * 2 * 3  # the transposed convolution
    summary = summarize(config, 5)
    assert summary.flops == flops
    assert [row.shape for row in summary.maps] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3), (64, 96)]


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        # r += (k - 1) * jump, jump *= stride, through the layers' published kernels and strides.
        ("backbone=vgg16 head=fcn32s", {"c1": 6, "c2": 16, "c3": 44, "c4": 100, "c5": 212, "logits": 212 + 32}),
        ("backbone=resnet18 head=fcn32s", {"c1": 7, "c2": 43, "c3": 99, "c4": 211, "c5": 435}),
        # Dilated: 2 * 8 for a 3x3 and 2 * 8 * dilation for the others keep what strides gave.
        ("backbone=resnet18 head=fcn", {"c4": 211, "c5": 435, "logits": 435 + 2 * 8}),
        # The 3x3 convolutions of its decoder, whose reach halves with each unpooling, read six cells of c5.
        ("model=segnet", {"c5": 212, "logits": 212 + 5 * 32}),
        ("backbone=vgg16_fc head=fcn backbone.fc_channels=8 backbone.output_stride=8", {"c5": 404}),
    ],
)
def test_textbook_receptive_fields(words, sides):
    segmenter = build_segmenter(composed(*words.split()), 2).eval()
    fields = theoretical(segmenter)
    assert {name: fields[name].side for name in sides} == sides
    assert not any(f.whole_image for f in fields.values())


def test_global_pooling_sees_the_whole_image():
    fields = theoretical(build_segmenter(composed("backbone=resnet18", "head=deeplabv3"), 2).eval())
    assert fields["logits"].whole_image
    # ASPP's largest rate, and torchvision's last 3x3, at stride 8.
    assert fields["logits"].side == fields["c5"].side + 2 * 36 * 8 + 2 * 8
    assert not fields["c5"].whole_image


def test_receptive_fields_of_single_layers():
    assert field(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU6(), nn.Conv2d(4, 1, 3, dilation=3, padding=3)).side == 11
    assert field(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Sigmoid()) == ReceptiveField(1, False)
    assert field(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.MaxPool2d(2)) == ReceptiveField(5, False)
    assert field(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)).side == 5
    assert field(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(60))).side == 121  # nothing underflows


def test_many_global_gates_neither_overflow_nor_hide_the_local_field():
    layers = [layer for _ in range(30) for layer in (nn.Conv2d(3, 3, 3, padding=1), Gate())]
    assert field(*layers) == ReceptiveField(61, True)


def test_maximum_depends_on_all_inputs():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with GradientSupport(cut_means=False):
        highest = torch.stack([x[0], x[1]]).amax(0)
    highest.backward()
    assert (x.grad > 0).all()


def test_effective_field_of_a_mean_is_its_kernel():
    layer = nn.Conv2d(3, 1, 9, padding=4)
    nn.init.ones_(layer.weight)
    gradient = effective(network(layer), 64, range(1))
    assert gradient.shape == (64, 64)
    assert diameter(gradient) == 9
    assert gradient.nonzero().min() == 28
    assert gradient.nonzero().max() == 36


def test_tables_and_picture(run, tmp_path):
    result = run("scripts/summary.py", *SMALL, "aux_head=fcn", "data=camvid", "output_dir=out")
    assert result.code == 0, result.out
    assert "resnet18_fcn, 11 classes\n" in result.out
    assert "aux_head" in result.out
    assert "effective" in result.out
    with Image.open(tmp_path / "out/summary.png") as picture:
        assert picture.height > picture.width > 500


@pytest.mark.parametrize(
    ("words", "count"), [(["data=pascal_context"], 59), (["data=pascal_context", "data.dataset.background=true"], 60)]
)
def test_classes_follow_from_settings_without_files(words, count):
    classes, assumed = find_classes(composed(*words, "data.root=nowhere", name="summary"))
    assert (len(classes), assumed) == (count, False)


def test_data_and_overrides_are_used(run):
    off = "receptive_field=false"
    result = run("scripts/summary.py", *SMALL[:2], "num_classes=5", "backbone.output_stride=16", "size=[64,128]", off)
    assert "5 classes\n" in result.out
    assert "4x8" in result.out
    result = run("scripts/summary.py", "model=fcn8s", off)
    for text in ("134,489,759", "21 classes (assumed; data=...", "222.6 GFLOPs for an image of 512x512"):
        assert text in result.out


def test_sweep_ends_with_one_table(run, tmp_path):
    words = ("receptive_field=false", "num_classes=3", "hydra.sweep.dir=sweep")
    result = run("scripts/summary.py", "-m", "backbone=resnet18,vgg11,vgg16_fc_original", "head=fcn", *words)
    assert result.code == 1  # the last one cannot work
    table = rows(tmp_path / "sweep/sweep.csv")
    assert [row["backbone"] for row in table] == ["resnet18", "vgg11", "vgg16_fc_original"]
    assert list(table[0])[1:4] == ["parameters", "GFLOPs", "stride"]
    assert [row["stride"] for row in table] == ["8", "8", ""]
    assert "continues the image beyond its border" in table[2]["error"]
    assert result.out.count("parameters ┃ GFLOPs") == 1


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("size=[64,x]", "size=[64, 'x']: it must be a number of pixels, 32 or more, or [height, width]"),
        ("data=folder", "data.root"),
    ],
)
def test_wrong_settings_end_with_one_sentence(run, word, sentence):
    assert sentence in run("scripts/summary.py", *SMALL, word).error
