"""Test mIoU on CamVid of segframe and of a plain script with the same network, weights, steps and crops:

python scripts/benchmark/accuracy_study.py <CamVid> [scratch|imagenet] [steps] [seeds]

scratch: DeepLabV3+ on ResNet-18, SGD of 0.05. imagenet: on EfficientNet-Lite0 with ImageNet weights, AdamW of 0.001,
and the same network by segframe's recipe, `experiment=camvid_heads`. All run in turns; their last weights are evaluated
on whole images.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segframe.models.weights.packaged import packaged_state

ROOT = Path(__file__).resolve().parents[2]
BATCH, CROP = 8, (240, 320)
LITE0 = "tf_efficientnet_lite0"
PLAIN = ("data=camvid", "head=deeplabv3plus", "head.num_convs=1", "trainer.precision=32-true")
OURS: dict[str, dict[str, tuple[str, ...]]] = {
    "scratch": {
        "segframe": (*PLAIN, "backbone=resnet18", "backbone.weights=null", "optimizer=sgd", "optimizer.lr=0.05"),
    },
    "imagenet": {
        "segframe": (
            *(*PLAIN, "backbone=efficientnet_lite0", "normalize=efficientnet_lite", "optimizer=adamw"),
            *("optimizer.lr=0.001", "backbone.lr_multiplier=0.3"),
        ),
        "segframe, recipe": ("experiment=camvid_heads", "head=deeplabv3plus", "head.num_convs=1"),
    },
}
"""Settings of each run of segframe: those of the plain script, and those of segframe's own recipe."""
PEER = {
    "scratch": ("--encoder", "resnet18", "--lr", "0.05"),
    "imagenet": (
        *("--encoder", f"tu-{LITE0}", "--mean", "127", "--std", "128", "--optimizer", "adamw", "--lr", "0.001"),
        *("--encoder-factor", "0.3"),
    ),
}


class Run(NamedTuple):
    """Result of one training run: mIoU on the test split, and seconds from the first batch to the end."""

    miou: float
    seconds: float


def start(folder: Path, *words: str) -> None:
    """Run `python *words` in this checkout and write its output to `folder`; exit if it fails."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, *words]
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if ended.returncode:
        sys.exit(f"error: {words[0]} has failed; its output is in {folder / 'output.txt'}")


def seconds_of(path: Path) -> float:
    """Return the time of a training that Clock measured."""
    times = json.loads(path.read_text())
    return times["end"] - times["start"]


def run_ours(camvid: Path, words: tuple[str, ...], steps: int, seed: int, folder: Path) -> Run:
    """Train by segframe; the test split is evaluated by its own program."""
    words = (
        *("train.py", *words, f"data.root={camvid}", f"data.batch_size={BATCH}", f"seed={seed}"),
        *(f"data.crop_size=[{CROP[0]},{CROP[1]}]", "data.num_workers=2"),
        *(f"trainer.max_steps={steps}", f"trainer.val_every_n_steps={steps}"),
        *("+callbacks.clock._target_=benchmark.clock.Clock", f"+callbacks.clock.path={folder}/clock.json"),
    )
    start(folder, *words, f"output_dir={folder}/run")
    checkpoint = f"checkpoint={folder}/run/checkpoints/last.ckpt"
    start(folder, "scripts/evaluate.py", checkpoint, "data.val_split=test", f"output_dir={folder}/test")
    return Run(json.loads((folder / "test/metrics.json").read_text())["test/miou"], seconds_of(folder / "clock.json"))


def run_peer(camvid: Path, setting: str, steps: int, seed: int, folder: Path, weights: Path) -> Run:
    """Train by the plain script, which evaluates the test split at its end."""
    words = (
        *("-m", "benchmark.peer_run", "--root", str(camvid), "--steps", str(steps), "--batch", str(BATCH)),
        *("--crop", *map(str, CROP), "--workers", "2", "--seed", str(seed), "--split", "test", *PEER[setting]),
        *("--folder", str(folder), "--report", f"{folder}/clock.json"),
    )
    start(folder, *words, *(("--weights", str(weights)) if setting == "imagenet" else ()))
    return Run(json.loads((folder / "clock.json").read_text())["miou"], seconds_of(folder / "clock.json"))


def main(camvid: Path, setting: str, steps: int, seeds: int) -> None:
    """Train segframe and the plain script once per seed; print the mean and standard deviation of their test mIoU."""
    logging.basicConfig(level=logging.ERROR)
    runs: dict[str, list[Run]] = {name: [] for name in (*OURS[setting], "plain script")}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights.pth"
        with torch.device("meta"):
            names = list(timm.create_model(LITE0).state_dict())
        torch.save(packaged_state(LITE0, names), weights)
        for seed in range(seeds):
            folder = Path(scratch) / str(seed)
            for name, words in OURS[setting].items():
                runs[name].append(run_ours(camvid, words, steps, seed, folder / name.replace(", ", "_")))
            runs["plain script"].append(run_peer(camvid, setting, steps, seed, folder / "peer", weights))
            print({name: found[-1] for name, found in runs.items()}, flush=True)
    table = Table("", "test mIoU", "seconds", title=f"{setting}, {steps} steps, {seeds} seeds")
    for name, found in runs.items():
        mious = [run.miou for run in found]
        spread = f" ± {statistics.stdev(mious):.4f}" if seeds > 1 else ""
        table.add_row(
            name, f"{statistics.mean(mious):.4f}{spread}", f"{statistics.median(r.seconds for r in found):.0f}"
        )
    Console().print(table)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit with a usage message if an argument is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=lambda text: Path(text).resolve(), help="folder of CamVid")
    parser.add_argument("setting", nargs="?", choices=OURS, default="imagenet")
    parser.add_argument("steps", nargs="?", type=int, default=1500)
    parser.add_argument("seeds", nargs="?", type=int, default=3, help="how many")
    return parser.parse_args(words)


if __name__ == "__main__":
    main(**vars(parse(sys.argv[1:])))
