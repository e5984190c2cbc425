"""Choose rows, measure their groups one after the other, and report the results."""

import logging
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from benchmark import growth, report
from benchmark.row import Group, Measured, NotMeasurable, Result, Row, Setup, judge
from benchmark.rows import GROUPS
from benchmark.schema import BenchmarkConfig
from segframe.config.validate import check_keys, did_you_mean
from segframe.errors import UserError
from segframe.inference.build import pick_device
from segframe.visualization.tables import console


def run_benchmark(config: DictConfig) -> None:
    """Measure the chosen rows; print a table, write JSON and plots."""
    check_keys(config, BenchmarkConfig)
    chosen = choose(GROUPS, config.only)
    camvid = Path(config.camvid).expanduser() if config.camvid else None
    if camvid is not None and not camvid.is_dir():
        raise UserError(f"camvid={camvid}: there is no such folder")
    if config.threads is not None:
        cores = os.cpu_count() or 1
        if not 1 <= config.threads <= cores:
            raise UserError(f"threads={config.threads}: out of range; give 1 to {cores}, the cores of this machine")
        torch.set_num_threads(config.threads)
    device = pick_device(config.accelerator)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # mostly other projects'
    folder = Path(HydraConfig.get().runtime.output_dir)
    target, picture = Path(config.json or folder / "benchmark.json"), Path(config.plot or folder / "benchmark.png")
    points = []
    with tempfile.TemporaryDirectory(prefix="segframe-benchmark-") as scratch:
        setup = Setup(device, config.quick, camvid, Path(scratch))
        results = measure(chosen, setup, lambda line: print(line, flush=True))
        metadata = report.machine(setup)
        if config.growth:
            print("measuring growth", flush=True)
            points = growth.grow(setup)
    # Wide enough for the table where the output is a file.
    out = console(highlight=False, width=max(console().width, report.WIDTH))
    out.print(report.table(results, metadata))
    for line in report.remarks(results):
        out.print(line)
    report.write_json(target, results, metadata, points)
    out.print(f"also in {target}", soft_wrap=True)
    out.print(report.plot(picture, results, metadata), soft_wrap=True)
    if points:
        out.print(growth.plot(target.with_name(f"{target.stem}_growth.png"), points), soft_wrap=True)


def choose(groups: Iterable[Group], only: Sequence[str]) -> list[tuple[Group, list[Row]]]:
    """Return the groups and rows that `only` gives by names or their beginnings; all of them if it is empty."""
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


def measure(chosen: Iterable[tuple[Group, list[Row]]], setup: Setup, log: Callable[[str], None]) -> list[Result]:
    """Measure group after group; one that fails is reported as not met, and the others go on."""
    results = []
    for group, rows in chosen:
        log(f"measuring {', '.join(dict.fromkeys(row.name for row in rows))}")
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
