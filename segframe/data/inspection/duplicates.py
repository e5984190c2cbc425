"""Images that are there more than once: by their bytes, and nearly, by their fingerprints."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from segframe.data.inspection.facts import HASH_SIDE, Facts, ImageFacts
from segframe.data.inspection.findings import ERROR, NOTE, ONE_SPLIT, WARNING, Finding
from segframe.data.inspection.splits import Split

ALIKE = 20
"""Bits of 256 in which near-duplicates differ at most.

On CamVid a copy of half the size at JPEG quality 60 differs in 18 at most, an image of another split in 78 at least.
"""
ROWS = 2048
"""So many fingerprints are compared with all others at once."""

Known = list[tuple[Facts, ImageFacts]]


def within(split: Split) -> Iterator[Finding]:
    """Find images that a split holds more than once, and count those that look alike."""
    known = _known(split)
    groups: dict[bytes, list[Facts]] = defaultdict(list)
    for facts, image in known:
        groups[image.digest].append(facts)
    same: list[str] = []
    different: list[str] = []
    for copies in groups.values():
        masks = {facts.mask if isinstance(facts.mask, str) else facts.mask.digest for facts in copies}
        (same if len(masks) == 1 else different).extend(facts.image_path for facts in copies[1:])
    if same:
        yield Finding(WARNING, split.name, "copy of another image, with the same mask", same, "keep one of them")
    if different:
        advice = "keep the one whose mask is right"
        yield Finding(WARNING, split.name, "copy of another image, with another mask", different, advice)
    firsts = [(facts, image) for facts, image in known if facts is groups[image.digest][0] and not image.is_blank]
    if near := sorted({later for _, later in _alike(firsts, firsts)}):
        alike = [firsts[k][0].image_path for k in near]
        yield Finding(NOTE, split.name, "image that looks almost like an earlier one", alike, "frames of a video?")


def between(splits: Sequence[Split], train_split: str, val_split: str) -> Iterator[Finding]:
    """Find images that two splits share which ought to have none in common: those for training, val and test."""
    named = {split.name: split for split in splits}
    ends = [name for name in named if name == val_split or name.startswith(("val", "test"))]
    ends.sort(key=lambda name: name != val_split)
    pairs = [(train_split, end) for end in ends] + [(a, b) for k, a in enumerate(ends) for b in ends[k + 1 :]]
    for first, second in dict.fromkeys(pairs):
        if first == second == val_split:
            advice = "figures are too good: set data.val_split to another split"
            yield Finding(WARNING, first, ONE_SPLIT, [], advice)
        if first == second or first not in named:
            continue
        yield from _shared(named[first], named[second], is_chosen=second == val_split and first == train_split)


def _shared(first: Split, second: Split, is_chosen: bool) -> Iterator[Finding]:
    here, there = _known(first), _known(second)
    own, other = {facts.image_path for facts, _ in here}, {facts.image_path for facts, _ in there}
    if not is_chosen and (own <= other or other <= own):
        return  # trainval holds val, as it should
    names = f"{first.name} + {second.name}"
    digests = {image.digest for _, image in here if not image.is_blank}
    if exact := [facts.image_path for facts, image in there if image.digest in digests]:
        what = f"image of {second.name} that is in {first.name} too"
        yield Finding(ERROR, names, what, exact, f"take it out of one of them: figures on {second.name} are too good")
    rest = [(facts, image) for facts, image in there if image.digest not in digests and not image.is_blank]
    near = {j for _, j in _alike([item for item in here if not item[1].is_blank], rest, symmetric=False)}
    if near:
        what = f"image of {second.name} that looks almost like one of {first.name}"
        yield Finding(WARNING, names, what, [rest[j][0].image_path for j in sorted(near)], "a copy, or the same video?")


def _known(split: Split) -> Known:
    return [(facts, facts.image) for facts in split.facts if not isinstance(facts.image, str)]


def _alike(first: Known, second: Known, symmetric: bool = True) -> Iterator[tuple[int, int]]:
    """Yield the pairs of near-duplicates; of a list with itself (`symmetric`) those with an earlier one."""
    if not first or not second:
        return
    bits = HASH_SIDE**2
    # Of +-1, the product of two fingerprints is 256 minus twice the bits in which they differ.
    a, b = (
        2 * np.unpackbits(np.stack([image.fingerprint for _, image in known]), axis=1).astype(np.float32) - 1
        for known in (first, second)
    )
    for top in range(0, len(a), ROWS):
        rows, columns = np.nonzero(a[top : top + ROWS] @ b.T >= bits - 2 * ALIKE)
        for row, column in zip((rows + top).tolist(), columns.tolist(), strict=True):
            if not symmetric or row < column:
                yield row, column
