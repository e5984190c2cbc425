"""Splits to check, and the examination of all their samples by worker processes."""

import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import cv2
import torch

from segframe.config.schema import DataConfig
from segframe.data.base import SegmentationDataset
from segframe.data.datamodule import count_workers
from segframe.data.file_listing import Problem, collect_problems
from segframe.data.inspection.facts import Facts, examine
from segframe.errors import UserError

MakeDataset = Callable[..., SegmentationDataset]


@dataclass
class Split:
    """A split, the problems with its list of files, and the properties of its samples once they are examined."""

    name: str
    dataset: SegmentationDataset
    problems: list[Problem]
    facts: list[Facts] = field(default_factory=list)


@dataclass
class FoundSplits:
    """The splits that can be checked, and the reasons why others cannot: name -> reason."""

    splits: list[Split]
    failed: dict[str, str]
    """Splits that are requested, or that a training would use."""
    left_out: dict[str, str]


def find_splits(make_dataset: MakeDataset, data: DataConfig, chosen: Sequence[str] | None) -> FoundSplits:
    """Return the chosen splits; None: all splits except those whose images are all in others.

    UserError if no split can be opened.
    """
    if chosen is not None and not chosen:
        raise UserError("splits=[]: name at least one, or leave it out to check all")
    needed = list(dict.fromkeys(chosen if chosen is not None else (data.train_split, data.val_split)))
    splits, reasons = [], {}
    queue = list(needed)
    for name in queue:
        try:
            with collect_problems() as problems:
                dataset = make_dataset(root=data.root, split=name)
        except UserError as error:
            # The problems explain why the split is empty.
            reasons[name] = f"{error}{''.join(_format_problems(problems))}"
        else:
            splits.append(Split(name, dataset, list(dict.fromkeys(problems))))
            if chosen is None:
                queue += [other for other in dataset.splits if other not in queue]
    if not splits:
        raise UserError(next(iter(reasons.values())))
    failed = {name: reason for name, reason in reasons.items() if name in needed}
    left_out = {name: reason for name, reason in reasons.items() if name not in needed}
    if chosen is None:
        for split in [split for split in splits if split.name not in needed]:
            others = [other for other in splits if other is not split]
            if paths(split) <= set().union(*map(paths, others)):
                splits.remove(split)
                left_out[split.name] = "its images are all in " + " and ".join(
                    other.name for other in others if paths(other) & paths(split)
                )
    return FoundSplits(splits, failed, left_out)


def _format_problems(problems: Sequence[Problem]) -> Iterator[str]:
    firsts = {problem.kind: problem.file for problem in reversed(problems)}
    for kind, count in Counter(problem.kind for problem in problems).items():
        yield f"; {kind}: {firsts[kind]}{f' and {count - 1} more' if count > 1 else ''}"


def paths(split: Split) -> set[str]:
    """Return the paths of its images, or the names of generated ones."""
    return {str(image) if image.name else name for name, image, _ in split.dataset.samples}


def examine_all(splits: Sequence[Split], num_workers: int | None) -> Iterator[None]:
    """Examine all samples of the splits, each pair of files once; yields after each of `num_pairs`.

    `num_workers` as data.num_workers: None means one process per core, at most 8; 0 means this process.
    """
    splits_of: dict[object, list[Split]] = {}
    jobs: list[tuple[int, int]] = []
    for which, split in enumerate(splits):
        for index, sample in enumerate(split.dataset.samples):
            if sample not in splits_of:
                jobs.append((which, index))
            splits_of.setdefault(sample, []).append(split)
    targets = iter(splits_of.values())
    for facts in _examine_jobs([split.dataset for split in splits], jobs, num_workers):
        for split in next(targets):
            split.facts.append(facts)
        yield


def num_pairs(splits: Sequence[Split]) -> int:
    """Return the number of different samples in the splits."""
    return len({sample for split in splits for sample in split.dataset.samples})


def _examine_jobs(
    datasets: list[SegmentationDataset], jobs: list[tuple[int, int]], num_workers: int | None
) -> Iterator[Facts]:
    num_workers = count_workers(num_workers)
    if num_workers == 0:
        yield from (examine(datasets[which], index) for which, index in jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(num_workers, context, _init_process, (datasets,)) as pool:
        try:
            yield from pool.map(_examine_job, jobs, chunksize=max(1, min(16, len(jobs) // (4 * num_workers))))
        except BrokenProcessPool:
            raise UserError(
                "a process that reads files was killed, perhaps for lack of memory: set data.num_workers=0"
            ) from None


_datasets: list[SegmentationDataset] = []


def _init_process(datasets: list[SegmentationDataset]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the program ends its workers
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    _datasets[:] = datasets


def _examine_job(job: tuple[int, int]) -> Facts:
    which, index = job
    return examine(_datasets[which], index)
