"""Chooses groups, measures them one after the other, and judges their rows."""

import traceback
from collections.abc import Callable, Iterable, Sequence

from segframe.benchmark.row import Group, Measured, NotMeasurable, Result, Row, Setup, judge
from segframe.config.validate import did_you_mean
from segframe.errors import UserError


def choose(groups: Iterable[Group], only: Sequence[str]) -> list[tuple[Group, list[Row]]]:
    """The groups and rows that `only` names, by whole names or their beginnings; all of them without."""
    groups = list(groups)
    names = list(dict.fromkeys(row.name for group in groups for row in group.rows))
    chosen = set() if only else set(names)
    for word in only:
        if not isinstance(word, str):
            raise UserError(f"only={list(only)}: give names of rows, or their beginnings: only=[loss_21,pipeline]")
        found = [name for name in names if name == word] or [name for name in names if name.startswith(word)]
        if not found:
            raise UserError(f"only={word}: there is no such row{did_you_mean(word, names)}")
        chosen.update(found)
    picked = [(group, [row for row in group.rows if row.name in chosen]) for group in groups]
    return [(group, rows) for group, rows in picked if rows]


def measure(chosen: Iterable[tuple[Group, list[Row]]], setup: Setup, tell: Callable[[str], None]) -> list[Result]:
    """Measures group after group; one that breaks down is reported as not met and the others go on."""
    results = []
    for group, rows in chosen:
        tell(f"measuring {', '.join(dict.fromkeys(row.name for row in rows))}")
        try:
            found = group.measure(setup)
        except NotMeasurable as reason:
            variants = {name for row in rows for name in (row.ours, row.against)}
            found = Measured({}, missing=dict.fromkeys(variants, str(reason)))
        except Exception as error:
            traceback.print_exc()
            failure = f"failed: {type(error).__name__}: {error}"
            results += [Result(row.name, row.against, str(row.target), False, failure) for row in rows]
            continue
        results += [judge(row, found) for row in rows]
    return results
