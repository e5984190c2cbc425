"""Runs in groups of seeds, their means, and the differences of groups with paired intervals."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from segframe.analysis.bootstrap import Samples, interval, resample
from segframe.analysis.comparison import Comparison, Difference, Group
from segframe.analysis.measured_run import MeasuredRun
from segframe.config.changed_settings import PLACES, flatten


def compare(runs: Sequence[MeasuredRun], resamples: int, folder: Path) -> Comparison:
    """Return the comparison of runs that were measured on the same images.

    The intervals are a paired bootstrap: each draw of images is the same for all runs, and a group's metric in a draw
    is the mean over its runs.
    """
    first, found = runs[0], group_seeds(runs)
    groups: list[Group] = []
    reference: dict[str, Samples] = {}
    for members, name in zip(found, group_names(found), strict=True):
        values = [metrics_of(run) for run in members]
        means = {metric: float(np.mean([value[metric] for value in values])) for metric in values[0]}
        draws = [resample(run.counts, first.classes, resamples) for run in members]
        samples = {metric: np.mean([draw[metric] for draw in draws], axis=0) for metric in means}
        differences = {
            metric: Difference(value - groups[0].means[metric], *interval(samples[metric] - reference[metric]))
            for metric, value in (means.items() if groups else ())
        }
        reference = reference or samples
        several = [metric for metric, mean in means.items() if len(members) > 1 and not isnan(mean)]
        deviations = {metric: float(np.std([value[metric] for value in values], ddof=1)) for metric in several}
        groups.append(Group(name, members, means, deviations, differences))
    return Comparison(groups, first.classes, differing_settings(groups), first.images, first.split, folder)


def group_seeds(runs: Sequence[MeasuredRun]) -> list[list[MeasuredRun]]:
    """Return the runs, together where nothing but their seed differs."""
    found: dict[Any, list[MeasuredRun]] = {}
    for number, run in enumerate(runs):
        settings = own_settings(run)
        seed = settings.pop("seed", None)
        key = tuple(sorted(settings.items()))
        taken = {own_settings(other).get("seed") for other in found.get(key, [])}
        alone = not run.config or seed in taken  # two checkpoints of one run are no two seeds
        found.setdefault(number if alone else key, []).append(run)
    return list(found.values())


def metrics_of(run: MeasuredRun) -> dict[str, float]:
    """Return the metrics of all images."""
    total = run.counts.sums(np.ones((1, len(run.images))))
    return {name: value.item() for name, value in total.metrics(run.classes).items()}


def own_settings(run: MeasuredRun) -> dict[str, str]:
    """Return a run's settings and those of its evaluation by name, without file locations."""
    place = f"{run.config.get('output_dir')}/"
    trained = {
        name: value
        for name, value in flatten(run.config).items()
        if not f"{value}/".startswith(place) and name not in PLACES
    }
    measured = {
        "evaluated by": "inference_in_words",
        "post-processing": "postprocess_in_words",
        "at output_stride": "output_stride",
        "in precision": "precision",
    }
    found = {title: run.settings.get(name, "-") for title, name in measured.items()}
    return trained | {title: "as trained" if value is None else str(value) for title, value in found.items()}


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return the settings whose values are not the same in all groups; "-" for a setting that a group's run lacks."""
    settings = [[own_settings(run) for run in group.runs] for group in groups]
    names = dict.fromkeys(name for group in settings for run in group for name in run)
    found = {}
    for name in names:
        values = [" | ".join(dict.fromkeys(run.get(name, "-") for run in group)) for group in settings]
        if len(set(values)) > 1:
            found[name] = values
    return found


def group_names(groups: Sequence[Sequence[MeasuredRun]]) -> list[str]:
    """Return a name for each group, its first run's with the number of its runs; equal ones with more of the path."""
    firsts = [runs[0] for runs in groups]
    names = [run.name for run in firsts]
    for distinct in (lambda k: Path(firsts[k].settings["checkpoint"]).stem, lambda k: str(k + 1)):
        names = [name if names.count(name) == 1 else f"{name} {distinct(k)}" for k, name in enumerate(names)]
    return [name if len(runs) == 1 else f"{name}, {len(runs)} seeds" for name, runs in zip(names, groups, strict=True)]
