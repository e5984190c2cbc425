"""Splits to check, and the examination of all their samples by worker processes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch.utils.data import Dataset

from segframe.config.schema import DataConfig
from segframe.data.base import SegmentationDataset
from segframe.data.datamodule import Loader, loader_settings
from segframe.data.file_listing import Problem, Sample, collect_problems
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
    pairs = _Pairs(splits)
    found: dict[Sample, Facts] = {}
    settings = loader_settings(num_workers, pin_memory=False) | {"collate_fn": list}
    for batch in Loader(pairs, batch_size=8, **settings):  # type: ignore[arg-type]
        for facts in batch:
            found[pairs.samples[len(found)]] = facts
            yield
    for split in splits:
        split.facts += [found[sample] for sample in split.dataset.samples]


def num_pairs(splits: Sequence[Split]) -> int:
    """Return the number of different samples in the splits."""
    return len(_Pairs(splits))


class _Pairs(Dataset[Facts]):
    """The properties of each pair of files in the splits."""

    def __init__(self, splits: Sequence[Split]) -> None:
        datasets = [split.dataset for split in splits]
        self.places = {sample: (data, k) for data in datasets for k, sample in enumerate(data.samples)}
        self.samples = list(self.places)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Facts:
        return examine(*self.places[self.samples[index]])
