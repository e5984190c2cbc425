"""Groups, which measure variants of the same work together, and rows, which compare two of them."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

SEGFRAME = "segframe"


class NotMeasurable(Exception):
    """A variant cannot be measured here: its package or a GPU is missing."""


@dataclass(frozen=True)
class Setup:
    """Settings of all measurements."""

    device: torch.device
    quick: bool
    camvid: Path | None
    folder: Path
    """For files of the rows: generated images, runs."""

    @property
    def rounds(self) -> int:
        """The largest number of rounds of a group."""
        return 5 if self.quick else 25

    @property
    def seconds(self) -> float:
        """No further round begins after this time, except for the first three."""
        return 2.0 if self.quick else 20.0

    def pick(self, full: int, quick: int) -> int:
        """Choose between the sizes of a full and of a quick benchmark."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Target:
    """Upper limits: of the ratios ours / theirs (`time`, `memory`), of seconds, or of seconds more than theirs."""

    time: float | None = None
    memory: float | None = None
    seconds: float | None = None
    seconds_more: float | None = None

    def __str__(self) -> str:
        parts = {
            "<= {:.3g}x time": self.time,
            "<= {:.3g}x memory": self.memory,
            "< {:g} s": self.seconds,
            "<= + {:g} s": self.seconds_more,
        }
        return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


@dataclass(frozen=True)
class Row:
    """One comparison: the variant `ours` of a group against another."""

    name: str
    against: str
    target: Target
    ours: str = SEGFRAME


@dataclass(frozen=True)
class Measured:
    """Measurements of a group, by variant."""

    seconds: Mapping[str, list[float]]
    """One value per round, in the same rounds for all variants."""
    bytes: Mapping[str, int | None] = field(default_factory=dict)
    """Peak memory above that before the call."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a variant was not measured."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """Differences of variants' results from the one that they must equal."""
    note: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Further metrics: images per second, share of peak FLOPs."""


@dataclass(frozen=True)
class Group:
    """Variants that are measured together, interleaved."""

    rows: tuple[Row, ...]
    measure: Callable[[Setup], Measured]


@dataclass(frozen=True)
class Result:
    """A row of the report; ratios are ours / theirs, `met` is None if unknown, for a `reason`."""

    name: str
    against: str
    target: str
    met: bool | None
    reason: str = ""
    time_ratio: float | None = None
    time_ratio_quartiles: tuple[float, float] | None = None
    memory_ratio: float | None = None
    ms: float | None = None
    ms_against: float | None = None
    mib: float | None = None
    mib_against: float | None = None
    rounds: int = 0
    note: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def judge(row: Row, found: Measured) -> Result:
    """Compare a group's measurements as one row states."""
    ours, theirs = found.seconds.get(row.ours), found.seconds.get(row.against)
    reasons = [found.missing[name] for name in (row.ours, row.against) if name in found.missing]
    ratio = quartiles = memory_ratio = None
    if ours and theirs:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        ratio = statistics.median(ratios)
        quartiles = find_quartiles(ratios)
    memory, memory_theirs = found.bytes.get(row.ours), found.bytes.get(row.against)
    if memory is not None and memory_theirs:
        memory_ratio = memory / memory_theirs
    second = statistics.median(ours) if ours else None
    more = statistics.median(a - b for a, b in zip(ours, theirs, strict=True)) if ours and theirs else None
    values = (ratio, memory_ratio, second, more)
    limits = (row.target.time, row.target.memory, row.target.seconds, row.target.seconds_more)
    checks = [
        None if value is None else value <= limit
        for value, limit in zip(values, limits, strict=True)
        if limit is not None
    ]
    # One missed limit is enough for False; True needs all of them.
    met = False if False in checks else None if None in checks or not checks else True
    if None in checks:
        reasons = reasons or ["peak memory cannot be read here" if ratio else "not measured"]
    if row.ours in found.differs:
        met = False
        reasons.append(found.differs[row.ours])
    return Result(
        row.name,
        row.against,
        str(row.target),
        met,
        "; ".join(dict.fromkeys(reasons)),
        ratio,
        quartiles,
        memory_ratio,
        None if second is None else 1e3 * second,
        1e3 * statistics.median(theirs) if theirs else None,
        None if memory is None else memory / 2**20,
        None if memory_theirs is None else memory_theirs / 2**20,
        len(ours or ()),
        found.note,
        found.metrics,
    )


def find_quartiles(values: list[float]) -> tuple[float, float]:
    """The quartiles; both are the value itself if there is only one."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
