"""Compare heads, or losses and crops, on CamVid: train each for 600 steps and print a table of test mIoU.

python scripts/benchmark/camvid_tables.py <CamVid> heads|losses <folder of the runs> [row ...]

Each row is one run of `experiment=camvid_heads` with other settings: EfficientNet-Lite0 with ImageNet weights, 600
steps, seed 0. The checkpoint with the best validation mIoU is evaluated on the test split, on whole images. Rows whose
results are in the folder are not trained again.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import segframe
from benchmark.accuracy_study import start
from benchmark.measure import interleaved
from benchmark.row import Setup
from segframe.analysis.model_counts import Summary, summarize

SIZE = (360, 480)
"""Height and width of CamVid's images in pixels."""
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "heads": {
        "fcn32s": ("head=fcn32s",),
        "fcn16s": ("head=fcn16s",),
        "fcn8s": ("head=fcn8s",),
        "unet": ("head=unet",),
        "pspnet": ("head=pspnet",),
        "deeplabv3": ("head=deeplabv3",),
        "deeplabv3plus": ("head=deeplabv3plus",),
        "segformer_mlp": ("head=segformer_mlp",),
        "upernet": ("head=upernet", "head.channels=128"),
    },
    "losses": {
        "cross_entropy": ("loss=cross_entropy",),
        "class_weights": ("loss=cross_entropy", "loss.class_weights=auto"),
        "focal": ("loss=focal",),
        "ohem": ("loss=ohem",),
        "cross_entropy_dice": ("loss.weights.dice=1", "loss.weights.lovasz=0"),
        "cross_entropy_lovasz": (),
        "without_rare_class_crops": ("transforms.rare_class_probability=0",),
        "without_max_class_share": ("transforms.max_class_share=null",),
    },
}
"""The rows of each table: name, and the settings of its run besides `experiment=camvid_heads`."""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit with a usage message if the table or a row is unknown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=lambda text: Path(text).resolve(), help="folder of CamVid")
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("folder", type=lambda text: Path(text).resolve(), help="for the runs, one folder for each row")
    parser.add_argument("rows", nargs="*", help="rows to train and show; all if none is given")
    args = parser.parse_args(words)
    rows = TABLES[args.table]
    if unknown := [row for row in args.rows if row not in rows]:
        parser.error(f"{args.table} has no row {unknown[0]}; choose from {', '.join(rows)}")
    args.rows = args.rows or list(rows)
    return args


def train(row: str, settings: tuple[str, ...], camvid: Path, folder: Path) -> dict[str, float]:
    """Train one row and evaluate it on the test split, unless its folder has the results; return its test metrics."""
    metrics = folder / "test" / "metrics.json"
    if not metrics.exists():
        print(f"training {row}", flush=True)
        data, run = f"data.root={camvid}", folder / "run"
        start(folder, "train.py", "experiment=camvid_heads", *settings, data, f"output_dir={run}")
        split = ("inference=whole", "data.val_split=test", f"output_dir={folder}/test")
        start(folder, "scripts/evaluate.py", f"checkpoint={run}", *split)
    found: dict[str, float] = json.loads(metrics.read_text())
    return found


def count(run: Path, num_classes: int) -> Summary:
    """Return the number of parameters of a run's network and its FLOPs for one image of 360x480 pixels."""
    config = cast(DictConfig, OmegaConf.load(run / "config.yaml"))
    OmegaConf.update(config, "size", list(SIZE), force_add=True)
    return summarize(config, num_classes)


def costs(runs: dict[str, Path]) -> dict[str, list[str]]:
    """Return the columns parameters, GFLOPs and milliseconds of each run's network for one image of 360x480 pixels.

    The time is the median of several rounds; in each round all networks predict the image once, one after the other.
    """
    image = np.zeros((*SIZE, 3), np.uint8)
    models = {row: segframe.load(run, device="cpu", inference="whole") for row, run in runs.items()}
    calls = {row: partial(model, image) for row, model in models.items()}
    seconds = interleaved(calls, Setup(torch.device("cpu"), False, None, Path()))
    found = {}
    for row, run in runs.items():
        summary, time = count(run, len(models[row].names)), statistics.median(seconds[row])
        found[row] = [f"{summary.total:,}", f"{summary.flops / 1e9:.1f}", f"{1e3 * time:.0f}"]
    return found


def main(args: argparse.Namespace) -> None:
    """Train the rows that have no results yet, then print the table.

    The table of heads has three more columns: parameters, GFLOPs and milliseconds of one image.
    """
    settings = TABLES[args.table]
    metrics = {row: train(row, settings[row], args.camvid, args.folder / row) for row in args.rows}
    cost = costs({row: args.folder / row / "run" for row in args.rows}) if args.table == "heads" else {}
    shown = Table("", "test mIoU", "boundary IoU", *(["parameters", "GFLOPs", "ms"] if cost else []))
    for row, found in metrics.items():
        shown.add_row(row, f"{found['test/miou']:.3f}", f"{found['test/mean_boundary_iou']:.3f}", *cost.get(row, []))
    Console().print(shown)


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
