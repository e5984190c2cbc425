"""Check of a sample of the files before a training."""

import time
from collections import defaultdict
from pathlib import Path

from segframe.data.base import SegmentationDataset
from segframe.data.inspection.facts import examine
from segframe.data.inspection.finding import ERROR, WARNING
from segframe.data.inspection.findings import SAME_SPLIT, check_split
from segframe.data.inspection.splits import Split
from segframe.errors import UserError

SAMPLES = 16
"""Maximum number of samples per split, evenly spaced."""
SECONDS = 0.3
"""Time limit for the samples of each split, and for the search for duplicates."""
HINT = "python scripts/check_data.py with the same data=... lists all problems"


def quick_check(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Return warnings about a sample of both splits; UserError if a problem would stop the training.

    Datasets that are generated or read their files themselves (reads_files) are not checked.
    """
    if not (train.reads_files and val.reads_files):
        return []
    warnings = []
    samples = [_examine_some(dataset) for dataset in ((train, val) if val.split != train.split else (train,))]
    for sample in samples:
        for finding in check_split(sample, samples):
            sentence = f"{finding.split}: {finding.what}"
            if finding.files and finding.files[0] not in finding.advice:
                sentence += f", as {finding.files[0]}"
            if finding.severity == ERROR:
                raise UserError(f"{sentence}: {finding.advice}; {HINT}")
            if finding.severity == WARNING:
                warnings.append(f"{sentence}: {finding.advice}")
    if val.split == train.split:
        warnings.append(f"{val.split}: {SAME_SPLIT}, so metrics are too high: set data.val_split to another split")
    elif copies := _find_copies(train, val):
        warnings.append(
            f"{val.split}: at least {len(copies)} of {len(val)} images are in {train.split} too, as {copies[0]}: "
            f"metrics on {val.split} are too high"
        )
    return [*warnings, HINT] if warnings else []


def _examine_some(dataset: SegmentationDataset) -> Split:
    split, end = Split(dataset.split, dataset, []), time.perf_counter() + SECONDS
    for k in range(min(SAMPLES, len(dataset))):
        if k and time.perf_counter() > end:
            break
        split.facts.append(examine(dataset, k * len(dataset) // SAMPLES if len(dataset) > SAMPLES else k))
    return split


def _find_copies(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Return the images of val whose file is identical to one of train; only files of equal size are read."""
    end = time.perf_counter() + SECONDS
    found: list[str] = []
    by_size: dict[int, list[Path]] = defaultdict(list)
    for sample in train.samples:
        if time.perf_counter() > end:
            return found
        by_size[sample.image.stat().st_size].append(sample.image)
    for sample in val.samples:
        size = sample.image.stat().st_size
        same_size = by_size[size]
        if size and same_size:  # pipes and devices have size 0, and must not be read
            content = sample.image.read_bytes()
            if any(path == sample.image or path.read_bytes() == content for path in same_size):
                found.append(str(sample.image))
        if time.perf_counter() > end:
            break
    return found
