"""A look at some of the files before a training: what would end it is raised, what would spoil it is told."""

import time
from collections import defaultdict
from pathlib import Path

from segframe.data.base import SegmentationDataset
from segframe.data.inspection.facts import examine
from segframe.data.inspection.findings import ERROR, ONE_SPLIT, WARNING, of_split
from segframe.data.inspection.splits import Split
from segframe.errors import UserError

SAMPLES = 16
"""Of each split at most, evenly spaced."""
SECONDS = 0.3
"""What is not read by then is not looked at; for the samples of each split, and for copies."""
ALL = "python scripts/check_data.py with the same data=... lists all there is"


def quick_check(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Return warnings, a sentence each, from a sample of both splits; UserError for what would end the training.

    Data that are generated are not looked at.
    """
    if train.samples[0].image == Path() or val.samples[0].image == Path():
        return []
    told = []
    samples = [_sample(dataset) for dataset in ((train, val) if val.split != train.split else (train,))]
    for sample in samples:
        for finding in of_split(sample, samples):
            sentence = f"{finding.split}: {finding.what}"
            if finding.files:
                sentence += f", as {finding.files[0]}"
            if finding.severity == ERROR:
                raise UserError(f"{sentence}: {finding.advice}; {ALL}")
            if finding.severity == WARNING:
                told.append(f"{sentence}: {finding.advice}")
    if val.split == train.split:
        told.append(f"{val.split}: {ONE_SPLIT}, so figures are too good: set data.val_split to another split")
    elif copies := _copies(train, val):
        told.append(
            f"{val.split}: at least {len(copies)} of {len(val)} images are in {train.split} too, as {copies[0]}: "
            f"figures on {val.split} are too good"
        )
    return [*told, ALL] if told else []


def _sample(dataset: SegmentationDataset) -> Split:
    split, end = Split(dataset.split, dataset, []), time.perf_counter() + SECONDS
    for k in range(min(SAMPLES, len(dataset))):
        if k and time.perf_counter() > end:
            break
        split.facts.append(examine(dataset, k * len(dataset) // SAMPLES if len(dataset) > SAMPLES else k))
    return split


def _copies(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Return the images of val that training has too, byte for byte; only files of one size are opened."""
    end = time.perf_counter() + SECONDS
    found: list[str] = []
    by_size: dict[int, list[Path]] = defaultdict(list)
    for sample in train.samples:
        if time.perf_counter() > end:
            return found
        by_size[sample.image.stat().st_size].append(sample.image)
    for sample in val.samples:
        size = sample.image.stat().st_size
        alike = by_size[size]
        if size and alike:  # pipes and devices have none, and are not to be read
            content = sample.image.read_bytes()
            if any(path == sample.image or path.read_bytes() == content for path in alike):
                found.append(str(sample.image))
        if time.perf_counter() > end:
            break
    return found
