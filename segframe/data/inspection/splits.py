"""Splits to check, and the examination of all their samples by worker processes."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.progress import track

from segframe.config.run_schema import DataConfig
from segframe.data.base import SegmentationDataset, open_split
from segframe.data.file_listing import Problem, collect_problems
from segframe.data.inspection.facts import Facts, ImageFacts, MaskFacts, examine
from segframe.data.loader import Loader, loader_settings
from segframe.errors import UserError

MakeDataset = Callable[..., SegmentationDataset]


@dataclass
class Split:
    """A split, the problems with its list of files, and the properties of its samples once they are examined."""

    name: str
    dataset: SegmentationDataset
    problems: list[Problem]
    facts: list[Facts] = field(default_factory=list)

    @property
    def images(self) -> list[tuple[Facts, ImageFacts]]:
        """Samples whose image can be read."""
        return [(facts, facts.image) for facts in self.facts if not isinstance(facts.image, str)]

    @property
    def masks(self) -> list[tuple[str, MaskFacts]]:
        """Paths and properties of the masks that can be read."""
        return [(facts.mask_path, facts.mask) for facts in self.facts if not isinstance(facts.mask, str)]

    @property
    def paths(self) -> set[str]:
        """Paths of the images, or the names of generated ones."""
        return {str(image) if image.name else name for name, image, _ in self.dataset.samples}


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
    splits: list[Split] = []
    reasons: dict[str, str] = {}
    queue = list(needed)
    for name in queue:
        try:
            with collect_problems() as problems:
                dataset = open_split(make_dataset, data, name)
        except UserError as error:
            # The problems explain why the split is empty.
            advised = re.sub(r"type data\.\w+_split=(\w+)", r"type splits=[\1]", str(error)) if chosen else str(error)
            reasons[name] = f"{advised}{''.join(_format_problems(problems))}"
        else:
            splits.append(Split(name, dataset, list(dict.fromkeys(problems))))
            if chosen is None:
                queue += [other for other in dataset.splits if other not in queue]
    if not splits:
        raise UserError(next(iter(reasons.values())))
    failed = {name: reasons.pop(name) for name in needed if name in reasons}
    if chosen is None:
        for split in [split for split in splits if split.name not in needed]:
            others = [other for other in splits if other is not split and other.paths & split.paths]
            if split.paths <= set().union(*(other.paths for other in others)):
                splits.remove(split)
                reasons[split.name] = f"its images are all in {' and '.join(other.name for other in others)}"
    return FoundSplits(splits, failed, reasons)


def _format_problems(problems: Sequence[Problem]) -> Iterator[str]:
    firsts = {problem.kind: problem.file for problem in reversed(problems)}
    for kind, count in Counter(problem.kind for problem in problems).items():
        yield f"; {kind}: {firsts[kind]}{f' and {count - 1} more' if count > 1 else ''}"


def examine_all(splits: Sequence[Split], num_workers: int | None) -> int:
    """Examine all samples of the splits, each pair of files once, and return the number of pairs.

    `num_workers` as data.num_workers: None means one process per core, at most 8; 0 means this process.
    """
    pairs = {sample: (split.dataset, k) for split in splits for k, sample in enumerate(split.dataset.samples)}
    # The loader's collate function runs in its workers.
    settings = loader_settings(num_workers, pin_memory=False) | {"collate_fn": _examine_pair, "batch_size": None}
    loader: Iterable[Any] = Loader(list(pairs.values()), **settings)  # type: ignore[arg-type]
    examined = track(loader, "reading", total=len(pairs), disable=not sys.stderr.isatty())
    facts = dict(zip(pairs, examined, strict=True))
    for split in splits:
        split.facts = [facts[sample] for sample in split.dataset.samples]
    return len(pairs)


def _examine_pair(pair: tuple[SegmentationDataset, int]) -> Facts:
    return examine(*pair)
