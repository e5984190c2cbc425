"""Heat maps and pictures of feature maps."""

import numpy as np

from segframe.visualization.heatmaps import HEAT, feature_grid, heat_map, nearest_cells


def test_heat_map_shows_every_cell_as_a_block():
    scores = np.array([[0, 1], [0.5, 0.25]], np.float32)
    picture = heat_map(np.zeros((300, 400, 3), np.uint8), scores, "car", aligned_stride=None)
    shown = picture[28 : 28 + 300, :400]
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 4
    assert (shown[:150, :200] == int(HEAT * 255 + 0.5)).all()
    assert heat_map(np.zeros((40, 50, 3), np.uint8), scores, "car", aligned_stride=8).shape[0] > 256


def test_nearest_cells():
    assert nearest_cells(2, 6, spacing=None).tolist() == [0, 0, 0, 1, 1, 1]
    assert nearest_cells(3, 6, spacing=2).tolist() == [0, 1, 1, 2, 2, 2]
    assert nearest_cells(3, 9, spacing=4).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert nearest_cells(1, 3, spacing=8).tolist() == [0, 0, 0]


def test_feature_grid_shows_the_channels_that_vary_most():
    features = np.random.default_rng(0).random((9, 4, 6), dtype=np.float32)
    features[2:] *= 0.01
    few, more = feature_grid(features, 2, "c5"), feature_grid(features, 99, "c5")
    assert few.shape[1] == more.shape[1] == 1024
    assert few.shape[0] < more.shape[0]
    assert feature_grid(np.zeros((1, 1, 1), np.float32), 16, "c5").dtype == np.uint8
