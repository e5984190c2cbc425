"""Test-time augmentation against the mean of full-size probabilities of every augmentation."""

import pytest
import torch
import torch.nn.functional as F
from conftest import PeakElements, agree
from small_networks import Cells, images, network

from segframe.errors import UserError
from segframe.inference import TTA, WholeImage

SCALES = [0.5, 1.0, 1.75]


def reference(segmenter, batch, sizes, flip):
    """The mean of every augmentation's probabilities at full size."""
    size, parts = batch.shape[-2:], []
    for other in sizes:
        scaled = F.interpolate(batch.float(), other, mode="bilinear") if other != size else batch.float()
        for mirrored in (False, True) if flip else (False,):
            full = segmenter.outputs(scaled.flip(-1) if mirrored else scaled)["main"].full()
            full = full.flip(-1) if mirrored else full
            parts.append(F.interpolate(full, size, mode="bilinear").softmax(1))
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize("head", ["fcn", "fcn8s", "deeplabv2", "unet"])
def test_exact_is_the_mean_of_full_size_probabilities(head):
    segmenter = network(head)
    batch = images(66, 75)
    sizes = [(33, 38), (66, 75), (116, 131)]
    with torch.inference_mode():
        scores = TTA(SCALES, True, "exact", 2)(segmenter, batch)
        expected = reference(segmenter, batch, sizes, flip=True)
    assert len(expected.unique()) > 100
    agree(scores.full().softmax(1), expected)
    assert torch.equal(scores.classes(), expected.argmax(1).to(torch.uint8))


@pytest.mark.parametrize(("aligned", "flip"), [(False, True), (True, False)])
def test_exact_of_several_images(aligned, flip):
    segmenter = Cells(channels=7, aligned=aligned)
    batch = images(45, 83, n=2)
    # 0.25: sides of no less than 32 pixels.
    sizes = [(32, 32), (45, 83), (68, 124)]
    expected = reference(segmenter, batch, sizes, flip)
    for batch_size in (3, 100):
        scores = TTA([0.25, 1.0, 1.5], flip, "exact", batch_size)(segmenter, batch)
        agree(scores.full().softmax(1), expected)
        assert torch.equal(scores.classes(), expected.argmax(1).to(torch.uint8))


@pytest.mark.parametrize(("mode", "aligned"), [("exact", False), ("fast", True)])
def test_one_scale_is_the_whole_image(mode, aligned):
    for segmenter in (Cells(aligned=aligned), network("deeplabv2" if aligned else "deeplabv3plus")):
        batch = images(75, 93, n=2)
        with torch.inference_mode():
            found = TTA([1.0], False, mode, 1)(segmenter, batch)
            expected = WholeImage()(segmenter, batch)
        if mode == "exact":
            agree(found.full().softmax(1), expected.full().softmax(1))
        assert torch.equal(found.classes(), expected.classes())


@pytest.mark.parametrize(("head", "mode"), [("fcn", "fast"), ("fcn8s", "exact"), ("unet", "fast")])
def test_a_mirrored_image_has_mirrored_probabilities(head, mode):
    segmenter, inference = network(head), TTA([0.75, 1.0, 1.25], True, mode, 2)
    batch = images(50, 63)
    with torch.inference_mode():
        found, mirrored = (inference(segmenter, x).full().softmax(1) for x in (batch, batch.flip(-1)))
    torch.testing.assert_close(mirrored.flip(-1), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["fcn", "deeplabv2"])
def test_fast_is_the_mean_on_the_coarse_grid(head):
    segmenter = network(head)
    batch = images(75, 93, n=2)
    with torch.inference_mode():
        found = TTA(SCALES, True, "fast", 4)(segmenter, batch)
        exact = TTA(SCALES, True, "exact", 4)(segmenter, batch)
        whole = WholeImage()(segmenter, batch)
    assert found.values.shape == whole.values.shape
    assert (found.size, found.aligned_stride) == (whole.size, whole.aligned_stride)
    agree(found.values.exp().sum(1), torch.ones(2, *whole.values.shape[-2:]))
    if whole.aligned_stride is not None:  # cells lie on pixels: there both are the same
        agree(found.values, exact.full()[..., :: whole.aligned_stride, :: whole.aligned_stride])
    assert (found.classes() == exact.classes()).float().mean() > 0.9


def test_fast_without_scale_1():
    segmenter = Cells()
    found = TTA([0.5, 1.25, 2.0], False, "fast", 1)(segmenter, images(80, 96))
    assert found.values.shape[-2:] == (13, 15)
    assert found.classes().shape == (1, 80, 96)


def test_full_size_scores_are_never_stored():
    peaks = []
    for height in (128, 1280):
        with PeakElements() as peak:
            TTA([0.5, 1.0], True, "exact", 1)(Cells(channels=200), images(height, 128)).classes()
        peaks.append(peak.elements / height)
    assert max(peaks) < 128 * 200 / 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scales": []}, r"inference\.scales=\[\]: it must be numbers between 0\.05 and 20"),
        ({"scales": [1.0, 0]}, r"inference\.scales=\[1.0, 0\]: it must be numbers between 0\.05 and 20"),
    ],
)
def test_wrong_settings(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        TTA(**({"scales": [1.0], "flip": True, "mode": "exact", "batch_size": 1} | settings))
