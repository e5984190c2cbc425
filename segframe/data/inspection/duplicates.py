"""Duplicate images, by the bytes of their files, and near-duplicates, by the correlation of their gradients."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from segframe.data.inspection.facts import Facts, ImageFacts
from segframe.data.inspection.finding import ERROR, NOTE, WARNING, Finding
from segframe.data.inspection.findings import SAME_SPLIT
from segframe.data.inspection.splits import Split

MIN_CORRELATION = 0.95
"""Two images are near-duplicates if the gradients of their shrunk copies correlate at least this much.

On CamVid an image and its copy of half the size at JPEG quality 60 correlate by at least 0.999, images of different
splits by at most 0.73.
"""
MEAN_IMAGES = 20
"""From the gradient of each of n images, n / (n + MEAN_IMAGES) times their mean gradient is subtracted, so that a
border which all images share (microscopes, fundus cameras) does not make them near-duplicates."""
CHUNK_ROWS = 2048
"""Images per block of the matrix of correlations, which limits its memory."""

Images = list[tuple[Facts, ImageFacts]]


def find_duplicates(split: Split) -> Iterator[Finding]:
    """Find duplicates and near-duplicates within a split."""
    groups: dict[bytes, list[Facts]] = defaultdict(list)
    for facts, image in split.images:
        groups[image.digest].append(facts)
    same: list[str] = []
    different: list[str] = []
    for copies in groups.values():
        masks = {facts.mask if isinstance(facts.mask, str) else facts.mask.digest for facts in copies}
        (same if len(masks) == 1 else different).extend(facts.image_path for facts in copies[1:])
    if same:
        yield Finding(
            WARNING,
            split.name,
            "copy of another image, with the same mask",
            same,
            "it counts twice: is one meant to be another image?",
        )
    if different:
        advice = "which mask is right? Correct the other"
        yield Finding(WARNING, split.name, "copy of another image, with another mask", different, advice)
    firsts = [
        (facts, image) for facts, image in split.images if facts is groups[image.digest][0] and not image.is_blank
    ]
    if near := sorted({later for _, later in _find_similar(firsts, firsts)}):
        similar = [firsts[k][0].image_path for k in near]
        yield Finding(NOTE, split.name, "image that looks almost like an earlier one", similar, "frames of a video?")


def find_shared_images(splits: Sequence[Split], train_split: str, val_split: str) -> Iterator[Finding]:
    """Find images that two of the training, validation and test splits share."""
    by_name = {split.name: split for split in splits}
    evaluated = [name for name in by_name if name == val_split or name.startswith(("val", "test"))]
    evaluated.sort(key=lambda name: name != val_split)
    pairs = [*((train_split, name) for name in evaluated), *combinations(evaluated, 2)]
    for first, second in dict.fromkeys(pairs):
        if first == second == val_split:
            advice = "metrics are too high: set data.val_split to another split"
            yield Finding(WARNING, first, SAME_SPLIT, [], advice)
        if first == second or first not in by_name:
            continue
        yield from _shared(by_name[first], by_name[second], is_chosen=second == val_split and first == train_split)


def _shared(first: Split, second: Split, is_chosen: bool) -> Iterator[Finding]:
    own, other = first.paths, second.paths
    if not is_chosen and (own <= other or other <= own):
        return  # one contains the other by design, as trainval contains val
    names = f"{first.name} + {second.name}"
    digests = {image.digest for _, image in first.images if not image.is_blank}
    if exact := [facts.image_path for facts, image in second.images if image.digest in digests]:
        what = f"image of {second.name} that is in {first.name} too"
        yield Finding(ERROR, names, what, exact, f"metrics on {second.name} are too high: let one of the two have it")
    rest = [(facts, image) for facts, image in second.images if image.digest not in digests and not image.is_blank]
    near = {j for _, j in _find_similar([item for item in first.images if not item[1].is_blank], rest, symmetric=False)}
    if near:
        what = f"image of {second.name} that looks almost like one of {first.name}"
        yield Finding(WARNING, names, what, [rest[j][0].image_path for j in sorted(near)], "a copy, or the same video?")


def _find_similar(first: Images, second: Images, symmetric: bool = True) -> Iterator[tuple[int, int]]:
    """Yield index pairs of near-duplicates; `symmetric`: both lists are the same, yield each pair once."""
    if not first or not second:
        return
    vectors = gradients(first if symmetric else [*first, *second])
    a, b = vectors[: len(first)], vectors[-len(second) :]
    for top in range(0, len(a), CHUNK_ROWS):
        rows, columns = np.nonzero(a[top : top + CHUNK_ROWS] @ b.T >= MIN_CORRELATION)
        for row, column in zip((rows + top).tolist(), columns.tolist(), strict=True):
            if not symmetric or row < column:
                yield row, column


def gradients(images: Images) -> np.ndarray:
    """Return the gradients of the shrunk images minus their weighted mean, float32 (n, 480), rows of norm 1.

    The product of two rows is the images' correlation. An image without any gradient has a row of zeros.
    """
    small = np.stack([image.small for _, image in images]).astype(np.float32)
    vectors = normalize(np.concatenate([np.diff(small, axis=k).reshape(len(small), -1) for k in (1, 2)], axis=1))
    shared = vectors.sum(axis=0) / (len(vectors) + MEAN_IMAGES)
    return normalize(np.where(vectors.any(axis=1, keepdims=True), vectors - shared, 0))


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Return the rows of a matrix (n, d) divided by their Euclidean norm; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
