"""The upsampling study and its measures."""

import pytest
import torch
from conftest import rows
from torch import nn

from benchmark.upsampling_study import checkerboard_energy
from segframe.data import Shapes
from segframe.inference import WholeImage
from segframe.models.logits import Logits


class Striped(nn.Module):
    """A network whose logits are the images' red channel plus stripes on every other row."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def outputs(self, images):
        logits = images[:, :1].float()
        logits[:, :, ::2] += self.strength
        return {"main": Logits(logits, tuple(images.shape[-2:]), None)}


def test_checkerboard_energy_is_the_share_of_periodic_variance():
    counts = {"train": 1, "val": 20, "test": 1}
    data = Shapes(root=None, split="val", transform=None, seed=0, size=64, num_images=counts)
    scores = torch.stack([data[k]["image"][0].double() for k in range(20)])
    variance = (scores - scores.mean((1, 2), keepdim=True)).square().mean()
    plain, striped = (checkerboard_energy(Striped(strength), WholeImage(), data) for strength in (0.0, 40.0))
    assert plain < 0.02
    # Stripes of 40 on every other row have a variance of 400.
    assert striped == pytest.approx(400 / (400 + variance.item()), abs=0.03)


@pytest.mark.slow
def test_upsampling_study(run, tmp_path):
    result = run("scripts/benchmark/upsampling_study.py", "steps=1", "output_dir=up")
    assert result.code == 0, result.out
    table = rows(tmp_path / "up/upsampling.csv")
    assert len(table) == 8
    assert table[1]["upsampling"] == "the same, shift-and-stitch to 8"
    assert table[0]["parameters"] == table[1]["parameters"] == "9,230,088"
