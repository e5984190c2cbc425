"""What a benchmark leaves: a table, JSON with the machine's description, a plot."""

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
from segframe.errors import error_context
from segframe.files import atomic_write, write_text
from segframe.visualization.tables import plain_table

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "torchmetrics", "albumentations", "segmentation-models-pytorch"),
    *("opencv-python-headless", "numpy", "segframe"),
)


NO_MATPLOTLIB = "no plot: pip install -e '.[benchmark]' brings matplotlib"
WIDTH = 150
"""Characters that the table's lines need."""


def machine(setup: Setup) -> dict[str, Any]:
    """Where and with what was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if setup.device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "quick": setup.quick,
        "versions": versions,
    }


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(results: Sequence[Result], metadata: Mapping[str, Any]) -> Table:
    """One line per row; what is not met or not measured says why below its name."""
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
    """What does not fit into the table: reasons, notes, other figures."""
    lines: dict[str, None] = {}
    for result in results:
        if result.reason:
            lines[f"{result.name} against {result.against}: {result.reason}"] = None
    for result in results:
        if result.note:
            lines[f"{result.name}: {result.note}"] = None
        for name, metrics in result.metrics.items():
            told = ", ".join(f"{value:.3g} {unit}" for unit, value in metrics.items())
            lines[f"{result.name}, {name}: {told}"] = None
    return list(lines)


def write_json(path: Path, results: Sequence[Result], metadata: Mapping[str, Any], growth: Sequence[Any] = ()) -> None:
    """{"machine": ..., "rows": [...], "growth": [...]}; ratios are ours / theirs."""
    rows = [dataclasses.asdict(result) for result in results]
    content = {"machine": dict(metadata), "rows": rows, "growth": list(growth)}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def plot(path: Path, results: Sequence[Result], metadata: Mapping[str, Any]) -> str:
    """Draws the time and memory ratios as bars; returns what to tell: the file, or why there is none."""
    measured = [result for result in results if result.time_ratio is not None]
    if not measured:
        return "nothing was measured in turns, so there is no plot"
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
    aims = [
        (float(aim[1]), place + lower)
        for place, result in enumerate(measured)
        for what, lower in (("time", -0.2), ("memory", 0.2))
        if (aim := re.search(rf"<= ([\d.]+)x {what}", result.target))
    ]
    if aims:
        axes.scatter(*zip(*aims, strict=True), marker="|", s=50, color="black", label="aimed at", zorder=3)
    axes.set_yticks(list(places), [f"{r.name} / {r.against}" for r in measured], fontsize=8)
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.set_xlim(0, min(2, 1.05 * max(1.05, *(r.time_ratio or 0 for r in measured))))
    axes.set_xlabel(f"segframe / other: shorter is better ({metadata['gpu'] or metadata['cpu']})")
    figure.legend(loc="outside upper right", ncols=3)
    return save_figure(path, figure)


def save_figure(path: Path, figure: Any) -> str:
    """Writes what matplotlib has drawn, in the format that the name asks for; returns the file."""
    with error_context(str(path)), atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=120)
    return str(path)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
