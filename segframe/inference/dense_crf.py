"""Fully connected CRF (Kraehenbuehl & Koltun, 2011): refines class probabilities along the image's edges."""

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from segframe.errors import check_range

Filter = Callable[[np.ndarray], np.ndarray]
"""Maps values (N, C) of N pixels, row by row, to weighted sums over all pixels."""

MIN_STD, MAX_STD = 0.01, 10_000
"""Limits of standard deviations, in pixels and grey levels, within which the lattice's integers are exact."""
MAX_WEIGHT = 1_000_000
"""Published weights are 3 to 10."""


class DenseCRF:
    """Mean-field inference with a Potts model, as DeepLab v1 and v2 use it (Chen et al., 2015 and 2018).

    The energy of pixels i and j with different classes is the sum of two kernels of their positions p and colours I
    (Kraehenbuehl & Koltun, 2011, equation 3):
    `bi_w` * exp(-|p_i - p_j|^2 / (2 bi_xy_std^2) - |I_i - I_j|^2 / (2 bi_rgb_std^2))
    + `pos_w` * exp(-|p_i - p_j|^2 / (2 pos_xy_std^2)), stds in pixels and in grey levels of 0 ... 255.
    Each kernel K is normalised to D^-1/2 K D^-1/2, D its row sums (Kraehenbuehl & Koltun, 2013), as the authors' code
    does. The kernel of positions is computed exactly, but for its tails beyond 4 stds; that of positions and colours
    by a permutohedral lattice, 1 to 3 % off the exact sums on average over the test's pictures. 500x375 pixels of 21
    classes take one CPU core 2 to 8 s, the longer the noisier the image.
    """

    def __init__(
        self, pos_xy_std: float, pos_w: float, bi_xy_std: float, bi_rgb_std: float, bi_w: float, iterations: int
    ) -> None:
        for name, std in (("pos_xy_std", pos_xy_std), ("bi_xy_std", bi_xy_std), ("bi_rgb_std", bi_rgb_std)):
            check_range(f"postprocess.{name}", std, MIN_STD, MAX_STD)
        for name, weight in (("pos_w", pos_w), ("bi_w", bi_w)):
            check_range(f"postprocess.{name}", weight, 0, MAX_WEIGHT)
        check_range("postprocess.iterations", iterations, 0)
        self.pos_xy_std = pos_xy_std
        self.pos_w = pos_w
        self.bi_xy_std = bi_xy_std
        self.bi_rgb_std = bi_rgb_std
        self.bi_w = bi_w
        self.iterations = iterations

    def __call__(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Return refined probabilities for probabilities float32 (C, H, W) and their image, uint8 RGB (H, W, 3)."""
        num_classes, *size = probabilities.shape
        assert image.shape == (*size, 3)
        kernels = [
            (self.pos_w, normalized(lambda values: self.smooth(values, size), image.size // 3)),
            (self.bi_w, normalized(Lattice(self.features(image)).filter, image.size // 3)),
        ]
        # A probability of 0 would have no finite logarithm.
        positive = np.maximum(probabilities.reshape(num_classes, -1).T, np.finfo(np.float32).tiny)
        unary = np.log(positive, dtype=np.float32, order="C")
        marginals = softmax(unary, axis=1)
        for _ in range(self.iterations):
            marginals = softmax(sum((weight * kernel(marginals) for weight, kernel in kernels), start=unary), axis=1)
        return np.ascontiguousarray(marginals.T).reshape(probabilities.shape)

    def smooth(self, values: np.ndarray, size: list[int]) -> np.ndarray:
        """Apply the kernel of positions to values (N, C): a Gaussian along rows and columns, zero beyond the image."""
        maps = values.reshape(*size, -1)
        return gaussian_filter(maps, self.pos_xy_std, mode="constant", axes=(0, 1)).reshape(values.shape)

    def features(self, image: np.ndarray) -> np.ndarray:
        """Return the position and colour of every pixel (N, 5), divided by their stds."""
        positions = np.indices(image.shape[:2]).reshape(2, -1).T
        return np.hstack([positions / self.bi_xy_std, image.reshape(-1, 3) / self.bi_rgb_std])


def normalized(kernel: Filter, num_pixels: int) -> Filter:
    """Return the filter D^-1/2 K D^-1/2 of a kernel K, D its row sums."""
    scale = kernel(np.ones((num_pixels, 1), np.float32)) ** -0.5
    return lambda values: scale * kernel(scale * values)


class Lattice:
    """Permutohedral lattice (Adams et al., 2010): a Gaussian filter of std 1 between N points in d dimensions, O(N d).

    Splat: each point adds its values to the d + 1 vertices of the simplex around it; blur: along the lattice's d + 1
    directions; slice: each point reads its vertices back. Each step is a sparse matrix, the same for all classes.
    """

    def __init__(self, features: np.ndarray) -> None:
        hashes, weights, steps = embed(features)
        occupied, vertex = np.unique(hashes, return_inverse=True)
        # Empty vertices between occupied ones, through which the blur passes, make it more exact.
        around, count = np.unique(np.concatenate([occupied + s for s in (*steps, *-steps)]), return_counts=True)
        vertices = np.union1d(occupied, around[count > 1])
        columns = np.searchsorted(vertices, occupied)[vertex.ravel()]
        rows = np.arange(0, weights.size + 1, weights.shape[1])
        self.slice = sparse.csr_matrix((weights.ravel(), columns, rows), (len(features), len(vertices)))
        self.splat = self.slice.T.tocsr()
        self.blurs = [blur(vertices, step) for step in steps]

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted sums of the points' values float32 (N, C), up to a common factor."""
        vertices = self.splat @ values
        for matrix in self.blurs:
            vertices = matrix @ vertices
        return self.slice @ vertices


def blur(vertices: np.ndarray, step: np.ndarray) -> sparse.csr_matrix:
    """Return the matrix of the kernel (1/2, 1, 1/2) along one direction; `vertices` are sorted hashes."""
    neighbours = np.searchsorted(vertices, vertices + step) % len(vertices)
    found = np.flatnonzero(vertices[neighbours] == vertices + step)
    shape = (len(vertices), len(vertices))
    halves = sparse.csr_matrix((np.full(len(found), 0.5, np.float32), (found, neighbours[found])), shape)
    return (sparse.identity(len(vertices), np.float32, format="csr") + halves + halves.T).tocsr()


def embed(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the vertices around points (N, d): hashes (N, d + 1), weights (N, d + 1), hashes of the steps (d + 1).

    A vertex has d + 1 integer coordinates that sum to 0 and all have the same remainder modulo d + 1: 0 for the first
    vertex of a simplex, 1 for the second ... The hash is linear modulo 2^64, so that a neighbour's hash is a sum; its
    factors are random 64-bit numbers, so that two vertices practically never have the same one.
    """
    n, d = features.shape
    axes = np.arange(d)
    # Onto the plane of sum 0 in d + 1 dimensions, scaled so that splat, blur and slice add up to a std of 1.
    basis = np.triu(np.ones((d + 1, d))) - np.diag(axes + 1.0, -1)[:, :d]
    points = features @ (basis * np.sqrt(2 / 3 / ((axes + 1) * (axes + 2)))).T
    nearest = np.rint(points)  # in units of d + 1 from here on
    rest = points - nearest
    ranks = np.argsort(np.argsort(-rest, axis=1), axis=1)
    # Rounding may have left the plane: the coordinates that it moved farthest are moved back by one.
    moved, ranks = np.divmod(ranks + nearest.sum(1, keepdims=True).astype(np.int64), d + 1)
    nearest -= moved
    rest += moved

    factors = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, d + 1)
    steps = factors.sum() - (d + 1) * factors
    by_rank = np.empty((n, d + 2))
    np.put_along_axis(by_rank, ranks, rest, axis=1)
    by_rank[:, -1] = by_rank[:, 0] - 1
    weights = -np.diff(by_rank, axis=1)[:, ::-1]
    step_by_rank = np.empty((n, d + 1), np.int64)
    np.put_along_axis(step_by_rank, ranks, np.broadcast_to(steps, (n, d + 1)), axis=1)
    # From one vertex to the next all coordinates increase by 1, except one, in the order of the ranks: by -d.
    origin = (nearest.astype(np.int64) * (d + 1)) @ factors
    hashes = origin[:, None] + np.cumsum(step_by_rank[:, ::-1], axis=1) - step_by_rank[:, ::-1]
    return hashes, weights.astype(np.float32), steps
