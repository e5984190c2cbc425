"""Training speed of two devices against one: python scripts/benchmark/devices_study.py [rounds]

Each device is a process with one thread of the CPU. Runs alternate; the ratio of each round's images/s is taken.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    *("data.dataset.size=160", "data.crop_size=160", "data.dataset.num_images={train: 64, val: 2, test: 1}"),
    *("data.batch_size=8", "data.num_workers=0", "transforms=light", "trainer.accelerator=cpu", "callbacks=none"),
    *("trainer.precision=32-true", "trainer.max_steps=12", "trainer.val_every_n_steps=12", "logger=default"),
    "+callbacks.curves={_target_: segframe.training.callbacks.TrainingCurves, every_n_steps: 4}",
)
ONE = "trainer.devices=1"
VARIANTS = {
    "batch norm per device": ("trainer.devices=2", "trainer.sync_batch_norm=false"),
    "synchronized batch norm": ("trainer.devices=2", "trainer.sync_batch_norm=true"),
}


def images_per_second(*words: str) -> float:
    """Train once; returns the mean images/s, without the first four steps, which warm up."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *WORDS, *words, f"output_dir={folder}/run"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        with (Path(folder) / "run/metrics.csv").open() as file:
            speeds = [float(row["speed/images_per_second"]) for row in csv.DictReader(file)]
    return statistics.mean(speeds[1:])


def main(rounds: int) -> None:
    """Print the median ratios."""
    table = Table("network", "two devices", "images/s of one", "of two", "ratio")
    for backbone in ("resnet18", "resnet50"):
        network = (f"backbone={backbone}", "backbone.weights=null", "head=deeplabv3plus")
        one: list[float] = []
        two: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for _ in range(rounds):
            one.append(images_per_second(*network, ONE))
            for name, words in VARIANTS.items():
                two[name].append(images_per_second(*network, *words))
        for name, speeds in two.items():
            ratio = statistics.median(b / a for a, b in zip(one, speeds, strict=True))
            medians = (f"{statistics.median(values):.2f}" for values in (one, speeds))
            table.add_row(f"DeepLabV3+, {backbone}", name, *medians, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
