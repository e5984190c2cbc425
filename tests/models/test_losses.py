"""Losses against torch's, against loops of their papers' definitions, and by their properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import composed, options
from PIL import Image

from segframe.config.instantiate import instantiate
from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.losses import CrossEntropy, Dice, Focal, LovaszSoftmax, OHEMCrossEntropy, WeightedSum, lovasz

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
    rounded = logits.values.detach().bfloat16()
    found = loss(logits._replace(values=rounded), mask)
    torch.testing.assert_close(found, loss(logits._replace(values=rounded.float()), mask))


def test_dice_by_hand():
    """Probabilities 1 and 0 on four pixels: Dice of both classes is 2 * 1 / (1 + 2) and 2 * 2 / (2 + 3), say."""
    values = torch.tensor([[[[60.0, 60.0, 0.0, 0.0]], [[0.0, 0.0, 60.0, 60.0]]]])
    mask = torch.tensor([[[0, 1, 1, 1]]])
    loss = Dice(smooth=0.0)(Logits(values, (1, 4), None), mask)
    torch.testing.assert_close(loss, torch.tensor(1 - (2 / 3 + 4 / 5) / 2))


WEIGHTS = [0.5, 1.0, 2.0, 0.0, 3.0]


def pixels(logits, mask):
    """For each image, the probabilities (C) and the class of each pixel that is not void; in float64."""
    probabilities = logits.full().detach().double().softmax(1).permute(0, 2, 3, 1).numpy()
    return [
        [(p, int(label)) for p, label in zip(image.reshape(-1, image.shape[-1]), labels.flatten(), strict=True)
         if label != 255]
        for image, labels in zip(probabilities, mask.numpy(), strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(("gamma", "weights"), [(0, None), (0.5, WEIGHTS), (2.0, None)])
def test_focal_is_the_papers(gamma, weights):
    logits, mask = sample(4)
    of_class = weights or [1.0] * 5
    known = [(p[label], of_class[label]) for image in pixels(logits, mask) for p, label in image]
    expected = sum(-w * (1 - p) ** gamma * math.log(p) for p, w in known) / sum(w for _, w in known)
    assert Focal(gamma, weights)(logits, mask).item() == pytest.approx(expected, rel=1e-5)


def test_focal_of_sure_pixels_has_a_gradient_for_every_gamma():
    """Also where 1 - p is 0 in float32, and its power has an infinite slope."""
    values = torch.tensor([[[[60.0, -200.0]], [[0.0, 0.0]]]], requires_grad=True)
    loss = Focal(0.5, None)(Logits(values, (1, 2), None), torch.zeros(1, 1, 2, dtype=torch.uint8))
    loss.backward()
    assert loss == 100
    torch.testing.assert_close(values.grad[0, 0, 0], torch.tensor([0.0, -0.5]))


@pytest.mark.parametrize(
    ("threshold", "min_kept", "weights"),
    [(0.15, 0.0, None), (0.1, 0.25, WEIGHTS), (0.9, 0.01, None), (0.0, 1.0, WEIGHTS)],
)
def test_ohem_is_the_mean_over_hard_pixels(threshold, min_kept, weights):
    logits, mask = sample(5)
    of_class = weights or [1.0] * 5
    kept, number = [], math.ceil(min_kept * 17 * 23)
    for image in pixels(logits, mask):
        hardest = sorted((p[label], of_class[label]) for p, label in image)
        kept += hardest[:number] + [one for one in hardest[number:] if one[0] < threshold]
    assert 0 < len(kept) <= (mask != 255).sum()
    expected = sum(-w * math.log(p) for p, w in kept) / sum(w for _, w in kept)
    loss = OHEMCrossEntropy(threshold, min_kept, weights)(logits, mask).item()
    assert loss == pytest.approx(expected, rel=1e-5)
    if min_kept == 1:
        assert loss == pytest.approx(CrossEntropy(weights, 0.0)(logits, mask).item(), rel=1e-5)


def lovasz_by_definition(image, classes=5):
    """Definition 1 of the paper: errors by the increments of the set function, the Jaccard loss of wrong pixels."""
    losses = []
    for number in range(classes):
        truth = {k for k, (_, label) in enumerate(image) if label == number}
        if not truth:
            continue
        errors = [1 - p[number] if k in truth else p[number] for k, (p, _) in enumerate(image)]
        wrong, before, loss = set(), 0.0, 0.0
        for k in sorted(range(len(image)), key=lambda k: -errors[k]):
            wrong.add(k)
            now = len(wrong) / len(truth | wrong)
            loss += errors[k] * (now - before)
            before = now
        losses.append(loss)
    return sum(losses) / len(losses)


def test_lovasz_is_the_papers():
    logits, mask = sample(6)
    mask[0, mask[0] == 3] = 255  # a class that only the second image has
    images = pixels(logits, mask)
    expected = sum(map(lovasz_by_definition, images)) / 2
    assert LovaszSoftmax(per_image=True)(logits, mask).item() == pytest.approx(expected, rel=1e-5)
    batch = LovaszSoftmax(per_image=False)(logits, mask).item()
    assert batch == pytest.approx(lovasz_by_definition(images[0] + images[1]), rel=1e-5)
    assert abs(batch - expected) > 1e-4


def test_lovasz_of_hard_predictions_is_one_minus_the_mean_iou():
    predicted, mask = torch.tensor([[[0, 0, 1, 1, 2, 2]]]), torch.tensor([[[0, 1, 1, 1, 0, 255]]], dtype=torch.uint8)
    values = 200 * F.one_hot(predicted, 3).permute(0, 3, 1, 2).float()
    loss = LovaszSoftmax(per_image=True)(Logits(values, (1, 6), None), mask)
    assert loss.item() == pytest.approx(1 - (1 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize(
    "loss",
    [
        *(Focal(0.0, None), Focal(0.5, [1.0, 0.3, 2.0]), Focal(2.0, None)),
        *(OHEMCrossEntropy(0.3, 0.2, [1.0, 0.3, 2.0]), LovaszSoftmax(True), LovaszSoftmax(False)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_gradients(loss):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    mask = torch.randint(0, 3, (2, 5, 7), dtype=torch.uint8, generator=generator)
    mask[0, 0] = 255
    assert torch.autograd.gradcheck(lambda values: loss(Logits(values, (5, 7), None), mask), values)


@pytest.mark.parametrize("loss", [Focal(2.0, WEIGHTS), LovaszSoftmax(True)], ids=["focal", "lovasz"])
def test_losses_of_a_steps_batches_add_up(loss):
    """Three images in two batches, one of them all void."""
    logits, mask = sample(7)
    more, more_mask = sample(8)
    mask[0] = 255
    batches = [mask, more_mask[:1]]
    found = loss(logits, mask, batches) + loss(more._replace(values=more.values[:1]), more_mask[:1], batches)
    together = logits._replace(values=torch.cat([logits.values, more.values[:1]]))
    torch.testing.assert_close(found, loss(together, torch.cat(batches)))


def test_a_sum_computes_only_what_has_a_weight():
    config = composed("loss=sum", "loss.weights.focal=0.5", "loss.terms.focal.gamma=1").loss
    both = instantiate(config, "loss")
    assert list(both.terms) == ["cross_entropy", "focal", "lovasz"]
    logits, mask = sample(2)
    parts = CrossEntropy(None, 0.0), Focal(1.0, None), LovaszSoftmax(True)
    expected = sum(factor * loss(logits, mask) for factor, loss in zip((1, 0.5, 1), parts, strict=True))
    torch.testing.assert_close(both(logits, mask), expected)
    with pytest.raises(UserError, match=r"loss.weights are all 0"):
        WeightedSum({"dice": Dice(1.0)}, {"dice": 0.0})


def test_a_loss_is_added_to_a_sum_on_the_command_line():
    config = composed("loss=cross_entropy_dice", "+loss@loss.terms.lovasz=lovasz", "+loss.weights.lovasz=2").loss
    assert list(instantiate(config, "loss").terms) == ["cross_entropy", "dice", "lovasz"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [({"dice": 1.0, "more": 1.0}, "~loss.weights.more"), ({"more": 1.0}, "+loss.weights.dice=1.0 ~loss.weights.more")],
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
    with pytest.raises(UserError, match=r"loss.gamma=-1: it must be 0 or more"):
        Focal(-1, None)
    with pytest.raises(UserError, match=r"loss.min_kept=100000: it must be between 0 and 1"):
        OHEMCrossEntropy(0.7, 100000, None)
    for loss in (Focal(2.0, [1.0]), OHEMCrossEntropy(0.7, 0.1, [1.0])):
        with pytest.raises(UserError, match="class_weights has 1 entries for 5 classes"):
            loss(*sample())


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


def test_pixels_behind_the_last_of_a_class_have_no_slope():
    """Which is why the CPU does not sort them, as a GPU does."""
    generator = torch.Generator().manual_seed(0)
    error = torch.rand(1000, generator=generator) ** 4
    foreground = torch.rand(1000, generator=generator) < 0.02
    error[foreground] += 0.05
    error[(torch.rand(1000, generator=generator) < 0.2) & ~foreground] = -1  # void
    order, full = lovasz.worst_first(error, foreground), error.argsort(descending=True)
    assert foreground.sum() < len(order) < 800
    assert torch.equal(order, full[: len(order)])
    assert not lovasz.jaccard_differences(foreground[full], torch.float64)[len(order) :].any()


def test_lovasz_of_nan_is_nan():
    logits, mask = sample()
    logits.values.data[0, 0, 0, 0] = math.nan
    assert LovaszSoftmax(per_image=True)(logits, mask).isnan()
