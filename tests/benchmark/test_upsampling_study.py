"""The measures of upsampling, and the script that compares the ways."""

import csv

import pytest
import torch
from conftest import composed
from torch import nn

from benchmark.upsampling_metrics import checkerboard_energy, interleaved_seconds
from segframe.data import Shapes
from segframe.inference.whole_image import WholeImage
from segframe.models.build import build_segmenter


class Painted(nn.Module):
    """Answers with the images' own red, plus a pattern that repeats every 8 pixels."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def outputs(self, images):
        from segframe.models.logits import Logits

        x = images[:, :1].float()
        pattern = torch.zeros(8, 8)
        pattern[::2] = self.strength
        x = x + pattern.repeat(x.shape[2] // 8, x.shape[3] // 8)
        return {"main": Logits(x, tuple(images.shape[-2:]), None)}


def test_checkerboard_energy_is_the_share_of_what_repeats():
    counts = {"train": 1, "val": 20, "test": 1}
    data = Shapes(root=None, split="val", transform=None, seed=0, size=64, num_images=counts)
    scores = torch.stack([data[k]["image"][0].double() for k in range(20)])
    variance = (scores - scores.mean((1, 2), keepdim=True)).square().mean()
    plain, striped = (checkerboard_energy(Painted(strength), WholeImage(), data) for strength in (0.0, 40.0))
    assert plain < 0.02
    # Stripes of 40 on every other row have a variance of 400.
    assert striped == pytest.approx(400 / (400 + variance.item()), abs=0.03)


def test_times_of_all_networks():
    segmenter = build_segmenter(composed("backbone=resnet18", "head=fcn"), 2).eval()
    found = interleaved_seconds({"a": (WholeImage(), segmenter), "b": (WholeImage(), segmenter)}, size=32, rounds=2)
    assert found.keys() == {"a", "b"}
    assert all(seconds > 0 for seconds in found.values())


@pytest.mark.slow
def test_upsampling_study(run, tmp_path):
    result = run("scripts/benchmark/upsampling_study.py", "steps=1", "output_dir=up")
    assert result.code == 0, result.out
    with (tmp_path / "up/upsampling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1]["upsampling"] == "the same, shift-and-stitch to 8"
    assert rows[0]["parameters"] == rows[1]["parameters"] == "9,230,088"


def test_number_of_steps_is_checked(run):
    result = run("scripts/benchmark/upsampling_study.py", "steps=0")
    assert "error: steps=0: out of range; give 1 to 1,000,000,000" in result.out
