"""The dense CRF against a computation over all pairs of pixels in double precision."""

import re

import numpy as np
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from scipy.special import softmax

from segframe.errors import UserError
from segframe.inference.dense_crf import DenseCRF, Lattice, normalized

YAML = OmegaConf.load(ROOT / "configs/postprocess/dense_crf.yaml")
SETTINGS = {key: value for key, value in YAML.items() if key != "_target_"}
OTHERS = {"bi_xy_std": 67.0, "bi_rgb_std": 3.0, "pos_xy_std": 1.0}, {"bi_xy_std": 20.0, "bi_rgb_std": 13.0}


def crf(**changed):
    return DenseCRF(**{**SETTINGS, **changed})


def picture(size, seed=0, noise=8):
    """A disc on a gradient, with noise."""
    rows, columns = np.indices(size)
    disc = np.hypot(rows - size[0] / 2, columns - size[1] / 3) < size[0] / 3
    values = np.where(disc[..., None], (180, 60, 40), np.stack([columns * 3, rows * 4, 90 + rows], -1))
    return np.clip(values + np.random.default_rng(seed).normal(0, noise, (*size, 3)), 0, 255).astype(np.uint8), disc


def guesses(truth, num_classes, seed=0):
    """Probabilities of a classifier that is often wrong about a class map."""
    scores = np.random.default_rng(seed).normal(0, 1.5, (num_classes, *truth.shape))
    return softmax(scores + 1.5 * (np.arange(num_classes)[:, None, None] == truth), axis=0).astype(np.float32)


def kernel(features):
    """D^-1/2 K D^-1/2 of a Gaussian of std 1 between all pairs of points."""
    full = np.exp(-0.5 * ((features[:, None] - features) ** 2).sum(-1))
    sums = full.sum(1)
    return full / np.sqrt(np.outer(sums, sums))


def position(size):
    return np.indices(size).reshape(2, -1).T.astype(float)


def brute_force(model, image, probabilities):
    """Algorithm 1 of Kraehenbuehl & Koltun (2011) with the kernels as matrices."""
    where, colour = position(image.shape[:2]), image.reshape(-1, 3).astype(float)
    pairwise = model.pos_w * kernel(where / model.pos_xy_std)
    pairwise += model.bi_w * kernel(np.hstack([where / model.bi_xy_std, colour / model.bi_rgb_std]))
    unary = -np.log(probabilities.reshape(len(probabilities), -1).astype(float))
    marginals = softmax(-unary, axis=0)
    for _ in range(model.iterations):
        marginals = softmax(-unary + marginals @ pairwise, axis=0)
    return marginals.reshape(probabilities.shape)


@pytest.mark.parametrize(("changed", "noise"), [({}, 60), (OTHERS[0], 8), (OTHERS[1], 60)])
def test_lattice_approximates_a_gaussian_filter(changed, noise):
    """Tolerances of the approximation: 3 % of the mean sum on average, 30 % for the worst pixel."""
    model = crf(**changed)
    features = model.features(picture((24, 32), noise=noise)[0])
    values = np.random.default_rng(1).random((len(features), 3), np.float32)
    found = normalized(Lattice(features).filter, len(features))(values)
    expected = kernel(features) @ values
    error = np.abs(found - expected) / expected.mean()
    assert found.dtype == np.float32
    assert error.mean() < 0.03
    assert error.max() < 0.3


def test_kernel_of_positions_is_exact():
    size, std = [15, 22], 3.0
    values = np.random.default_rng(1).random((15 * 22, 3), np.float32)
    found = normalized(lambda v: crf(pos_xy_std=std).smooth(v, size), 15 * 22)(values)
    np.testing.assert_allclose(found, kernel(position(size) / std) @ values, rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "size", "num_classes"), [({}, (31, 17), 21), (OTHERS[0], (12, 16), 2), (OTHERS[1], (24, 32), 5)]
)
def test_marginals_are_those_of_brute_force(changed, size, num_classes):
    """Tolerances of the approximation: probabilities within 0.01 on average, classes equal on 97 % of the pixels."""
    image, disc = picture(size)
    probabilities = guesses(disc.astype(int), num_classes)
    model = crf(**changed)
    found, expected = model(image, probabilities), brute_force(model, image, probabilities)
    assert np.abs(found - expected).mean() < 0.01
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.97
    # The refinement changes classes.
    assert (probabilities.argmax(0) != expected.argmax(0)).mean() > 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (20, 13)])
def test_result_is_a_distribution(size):
    image, disc = picture(size)
    probabilities = guesses(disc.astype(int), 4)
    probabilities[0] = 0
    refined = crf()(image, probabilities / probabilities.sum(0))
    assert refined.shape == probabilities.shape
    assert refined.dtype == np.float32
    assert refined.min() >= 0
    np.testing.assert_allclose(refined.sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("changed", [{"pos_w": 0.0, "bi_w": 0.0}, {"iterations": 0}])
def test_without_weights_or_iterations_nothing_changes(changed):
    image, disc = picture((14, 11))
    probabilities = guesses(disc.astype(int), 3)
    np.testing.assert_allclose(crf(**changed)(image, probabilities), probabilities, atol=1e-6)


@pytest.mark.parametrize("changed", [{"pos_xy_std": 0.0}, {"bi_rgb_std": 1e30}, {"bi_w": -1.0}, {"iterations": -1}])
def test_wrong_settings(changed):
    ((name, value),) = changed.items()
    with pytest.raises(UserError, match=re.escape(f"postprocess.{name}={value}: it must be ")):
        crf(**changed)
