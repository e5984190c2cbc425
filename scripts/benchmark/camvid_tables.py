"""Tables of CamVid at an equal number of steps: heads, or losses and crops. One seed, 600 steps for each row.

PYTHONPATH=.:scripts python scripts/benchmark/camvid_tables.py <CamVid> heads|losses <folder of the runs> [row ...]

Every row is `experiment=camvid_heads` with other settings: an EfficientNet-Lite0 encoder with ImageNet weights. Runs
that the folder has already are not trained again. Test images are read whole, with the checkpoint that is best by
validation.
"""

import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

import segframe
from benchmark.accuracy_study import start
from benchmark.measure import interleaved
from benchmark.row import Setup
from segframe.analysis.model_counts import Summary, summarize

SIZE = (360, 480)
TABLES = {
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
        "cross-entropy": ("loss=cross_entropy",),
        "class_weights=auto": ("loss=cross_entropy", "loss.class_weights=auto"),
        "focal": ("loss=focal",),
        "OHEM": ("loss=ohem",),
        "cross-entropy + Dice": ("loss.weights.dice=1", "loss.weights.lovasz=0"),
        "cross-entropy + Lovasz": (),
        "without rare_class_probability": ("transforms.rare_class_probability=0",),
        "without max_class_share": ("transforms.max_class_share=null",),
    },
}


def train(name: str, words: tuple[str, ...], camvid: Path, folder: Path) -> dict[str, float]:
    """Return the metrics of a row's run on the test split, after training it if they are not there."""
    metrics = folder / "test" / "metrics.json"
    if not metrics.exists():
        print(name, flush=True)
        start(folder, "train.py", "experiment=camvid_heads", *words, f"data.root={camvid}", f"output_dir={folder}/run")
        words = ("inference=whole", "data.val_split=test", f"output_dir={folder}/test")
        start(folder, "scripts/evaluate.py", f"checkpoint={folder}/run", *words)
    found: dict[str, float] = json.loads(metrics.read_text())
    return found


def count(run: Path, num_classes: int) -> Summary:
    """Return parameters and FLOPs of a run's network for an image of SIZE."""
    config = cast(DictConfig, OmegaConf.load(run / "config.yaml"))
    OmegaConf.update(config, "size", list(SIZE), force_add=True)
    return summarize(config, num_classes)


def costs(runs: dict[str, Path]) -> dict[str, list[str]]:
    """Return parameters, GFLOPs and milliseconds of each run's network for an image of SIZE, timed in turns."""
    image = np.zeros((*SIZE, 3), np.uint8)
    models = {name: segframe.load(run, device="cpu", inference="whole") for name, run in runs.items()}
    calls = {name: partial(model, image) for name, model in models.items()}
    seconds = interleaved(calls, Setup(torch.device("cpu"), False, None, Path()))
    found = {}
    for name, run in runs.items():
        summary, time = count(run, len(models[name].names)), statistics.median(seconds[name])
        found[name] = [f"{summary.total:,}", f"{summary.flops / 1e9:.1f}", f"{1e3 * time:.0f}"]
    return found


def main(camvid: Path, table: str, folder: Path, names: list[str]) -> None:
    """Train the rows that are missing and print the table."""
    rows = {name: words for name, words in TABLES[table].items() if not names or name in names}
    metrics = {name: train(name, words, camvid, folder / name) for name, words in rows.items()}
    cost = costs({name: folder / name / "run" for name in rows}) if table == "heads" else {}
    shown = Table("", "test mIoU", "boundary IoU", *(["parameters", "GFLOPs", "ms"] if cost else []))
    for name, found in metrics.items():
        shown.add_row(name, f"{found['test/miou']:.3f}", f"{found['test/mean_boundary_iou']:.3f}", *cost.get(name, []))
    Console().print(shown)


if __name__ == "__main__":
    _, root, table, folder, *names = sys.argv
    main(Path(root).resolve(), table, Path(folder).resolve(), names)
