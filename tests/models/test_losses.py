"""Losses against torch's and by their properties."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import composed, options
from PIL import Image

from segframe.config.instantiate import instantiate
from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.losses.combined import WeightedSum
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.losses.dice import Dice

LOSSES = options("loss")


def sample(seed=0, size=(17, 23), classes=5):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, classes, 5, 6, generator=generator).requires_grad_()
    mask = torch.randint(0, classes, (2, *size), generator=generator).to(torch.uint8)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    return Logits(values, size, aligned_stride=None), mask


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name):
    loss = instantiate(composed(f"loss={name}").loss, "loss")
    logits, mask = sample()
    value = loss(logits, mask)
    value.backward()
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value > 0
    assert logits.values.grad.isfinite().all()
    # Logits under ignored pixels change nothing.
    full = logits._replace(values=logits.full().detach())
    elsewhere = full.values + 100 * torch.randn(5)[:, None, None] * (mask == 255)[:, None]
    torch.testing.assert_close(loss(full._replace(values=elsewhere), mask), loss(full, mask))
    # Perfect logits, and nothing but void.
    perfect = 50 * F.one_hot(mask.long().where(mask != 255, 0), 5).permute(0, 3, 1, 2).float()
    assert loss(full._replace(values=perfect), mask) < 1e-3
    nothing = logits._replace(values=logits.values.detach().requires_grad_())
    zero = loss(nothing, torch.full_like(mask, 255))
    zero.backward()
    assert zero == 0
    assert nothing.values.grad.abs().sum() == 0
    assert loss(logits._replace(values=logits.values.to(torch.bfloat16)), mask).dtype == torch.float32


def test_dice_by_hand():
    """Probabilities 1 and 0 on four pixels: Dice of both classes is 2 * 1 / (1 + 2) and 2 * 2 / (2 + 3), say."""
    values = torch.tensor([[[[60.0, 60.0, 0.0, 0.0]], [[0.0, 0.0, 60.0, 60.0]]]])
    mask = torch.tensor([[[0, 1, 1, 1]]])
    loss = Dice(smooth=0.0)(Logits(values, (1, 4), None), mask)
    torch.testing.assert_close(loss, torch.tensor(1 - (2 / 3 + 4 / 5) / 2))


def test_weighted_sum():
    logits, mask = sample(2)
    both = instantiate(composed("loss=cross_entropy_dice", "loss.weights.dice=0.5").loss, "loss")
    torch.testing.assert_close(
        both(logits, mask), CrossEntropy(None, 0.0)(logits, mask) + 0.5 * Dice(1.0)(logits, mask)
    )


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"dice": 1.0, "more": 1.0}, "~loss.weights.more"),
        ({"more": 1.0}, "+loss.weights.dice=1.0 ~loss.weights.more"),
    ],
)
def test_weights_of_other_terms_are_refused(weights, words):
    with pytest.raises(UserError) as error:
        WeightedSum({"dice": Dice(1.0)}, weights)
    assert str(error.value).endswith(f"the terms are dice; add {words}")


def test_classes_of_weight_0_do_not_count():
    logits, mask = sample(3)
    value = CrossEntropy([0.0, 1.0, 1.0, 1.0, 1.0], 0.1)(logits, torch.zeros_like(mask))
    assert value == 0


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="class_weights has 2 entries for 5 classes"):
        CrossEntropy([1.0, 2.0], 0.0)(*sample())
    with pytest.raises(UserError, match="label_smoothing must lie in"):
        CrossEntropy(None, 1.5)


def test_coarse_labels_are_every_eighth_pixel_of_deeplabs_crops():
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 5, (2, 321, 321), generator=generator).to(torch.uint8)
    values = torch.randn(2, 5, 41, 41, generator=generator)
    loss = instantiate(composed("loss=cross_entropy_coarse").loss, "loss")
    expected = F.cross_entropy(values, mask[:, ::8, ::8].long())
    torch.testing.assert_close(loss(Logits(values, (321, 321), aligned_stride=8), mask), expected)
    # Edge to edge it is Pillow's nearest neighbour, as deeplab-pytorch shrinks its masks.
    shrunk = np.stack([np.asarray(Image.fromarray(m.numpy()).resize((41, 41), Image.Resampling.NEAREST)) for m in mask])
    expected = F.cross_entropy(values, torch.from_numpy(shrunk).long())
    torch.testing.assert_close(loss(Logits(values, (321, 321), aligned_stride=None), mask), expected)
