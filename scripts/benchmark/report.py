"""A benchmark's results as a table, as JSON and as a plot."""

import dataclasses
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmark.row import Result, Setup
from segframe.analysis.planning.measure_machine import cpu_name
from segframe.errors import error_context
from segframe.files import atomic_write, write_text
from segframe.visualization.tables import plain_table

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "torchmetrics", "albumentations", "segmentation-models-pytorch"),
    *("opencv-python-headless", "numpy", "segframe"),
)


NO_MATPLOTLIB = "no plot: pip install 'segframe[benchmark]' brings matplotlib"
WIDTH = 150
"""Width of the table in characters."""


def machine(setup: Setup) -> dict[str, Any]:
    """The machine and the versions of packages, for the JSON and the titles."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if setup.device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "quick": setup.quick,
        "versions": versions,
    }


def table(results: Sequence[Result], metadata: Mapping[str, Any]) -> Table:
    """One line per row; `remarks` explains what is missed or missing."""
    title = (
        f"{metadata['gpu'] or metadata['cpu']}, {metadata['threads']} threads, torch {metadata['versions']['torch']}"
    )
    if metadata["quick"]:
        title += " (quick: smaller steps, few rounds; the targets are those of the full run)"
    rows = []
    for result in results:
        low, high = result.time_ratio_quartiles or (0.0, 0.0)
        rows.append(
            {
                "row": result.name,
                "against": result.against,
                "ms": _number(result.ms),
                "theirs": _number(result.ms_against),
                "time": f"{result.time_ratio:.3f} ({low:.3f}-{high:.3f})" if result.time_ratio is not None else "-",
                "MiB": _number(result.mib),
                "theirs ": _number(result.mib_against),
                "memory": f"{result.memory_ratio:.2f}" if result.memory_ratio is not None else "-",
                "target": result.target or "-",
                "met": {True: "yes", False: "no", None: "-"}[result.met],
            }
        )
    return plain_table(rows, title)


def remarks(results: Sequence[Result]) -> list[str]:
    """Lines below the table: reasons, notes, further metrics."""
    lines: dict[str, None] = {}
    for result in results:
        if result.reason:
            lines[f"{result.name} against {result.against}: {result.reason}"] = None
    for result in results:
        if result.note:
            lines[f"{result.name}: {result.note}"] = None
        for name, metrics in result.metrics.items():
            text = ", ".join(f"{value:.3g} {unit}" for unit, value in metrics.items())
            lines[f"{result.name}, {name}: {text}"] = None
    return list(lines)


def write_json(path: Path, results: Sequence[Result], metadata: Mapping[str, Any], growth: Sequence[Any] = ()) -> None:
    """{"machine": ..., "rows": [...], "growth": [...]}; ratios are ours / theirs."""
    rows = [dataclasses.asdict(result) for result in results]
    content = {"machine": dict(metadata), "rows": rows, "growth": list(growth)}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def plot(path: Path, results: Sequence[Result], metadata: Mapping[str, Any]) -> str:
    """Plot the ratios of time and memory as bars; return the file's name, or why there is no plot."""
    measured = [result for result in results if result.time_ratio is not None]
    if not measured:
        return "no plot: no row was measured against another"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return NO_MATPLOTLIB
    figure = Figure(figsize=(9, 1 + 0.3 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(measured))
    axes.barh([k - 0.2 for k in places], [r.time_ratio or 0 for r in measured], 0.4, label="time")
    axes.barh([k + 0.2 for k in places], [r.memory_ratio or 0 for r in measured], 0.4, label="peak memory")
    axes.axvline(1, color="black", linewidth=1)
    targets = [
        (float(match[1]), place + lower)
        for place, result in enumerate(measured)
        for what, lower in (("time", -0.2), ("memory", 0.2))
        if (match := re.search(rf"<= ([\d.]+)x {what}", result.target))
    ]
    if targets:
        values, heights = zip(*targets, strict=True)
        axes.scatter(values, heights, marker="|", s=50, color="black", label="target", zorder=3)
    axes.set_yticks(list(places), [f"{r.name} / {r.against}" for r in measured], fontsize=8)
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.set_xlim(0, min(2, 1.05 * max(1.05, *(r.time_ratio or 0 for r in measured))))
    axes.set_xlabel(f"segframe / other: shorter is better ({metadata['gpu'] or metadata['cpu']})")
    figure.legend(loc="outside upper right", ncols=3)
    return save_figure(path, figure)


def save_figure(path: Path, figure: Any) -> str:
    """Write a matplotlib figure in the format of the file's suffix; return the file's name."""
    with error_context(str(path)), atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=120)
    return str(path)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
