"""Rows of whole processes: a training run, and the start-up time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmark import peers
from benchmark.images import camvid_tree
from benchmark.measure import TreeMemory, alternating
from benchmark.row import SEGFRAME, Group, Measured, NotMeasurable, Row, Setup, Target

ROOT = Path(__file__).resolve().parents[3]
PEER = "Lightning + smp script"


@dataclass
class Process:
    """A command that is run repeatedly; `{folder}` in it is a new folder per run, in which Clock writes clock.json."""

    words: list[str]
    folder: Path
    is_peer: bool = False
    peaks: list[int] = field(default_factory=list)
    runs: int = 0

    def run(self) -> tuple[float, dict[str, float]]:
        """Run once; return the start in Unix seconds and the clock's times."""
        self.runs += 1
        folder = self.folder / f"{self.runs}"
        folder.mkdir(parents=True)
        words = [word.replace("{folder}", str(folder.resolve())) for word in self.words]
        # This checkout, whatever is installed.
        path = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
        start = time.time()
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            memory = TreeMemory(process.pid)
            memory.start()
            code = process.wait()
        peak = memory.stop()
        if code:
            tail = (folder / "output.txt").read_text().strip().splitlines()[-1:]
            failure = f"{' '.join(words[:2])} failed: {' '.join(tail)}"
            raise NotMeasurable(failure) if self.is_peer else RuntimeError(failure)
        if peak is not None:
            self.peaks.append(peak)
        clock = folder / "clock.json"
        return start, json.loads(clock.read_text()) if clock.exists() else {"end": time.time()}

    def peak(self) -> int | None:
        """The median of the runs' peaks in bytes."""
        return sorted(self.peaks)[len(self.peaks) // 2] if self.peaks else None


def training(setup: Setup) -> Measured:
    """DeepLabV3+-R18 on CamVid with loader, metric, validation and checkpoints, from the first batch to the end."""
    batch, steps, workers = 4, setup.pick(20, 4), min(2, os.cpu_count() or 1)
    crop = (setup.pick(352, 176), setup.pick(480, 240))
    counts = {"train": setup.pick(48, 16), "val": setup.pick(24, 2)}
    root = camvid_tree(setup.folder / "camvid", setup.camvid, counts).resolve()
    accelerator = "gpu" if setup.device.type == "cuda" else "cpu"
    ours = [
        *("train.py", "data=camvid", f"data.root={root}", "backbone=resnet18", "backbone.weights=null"),
        *("head=deeplabv3plus", "head.num_convs=1", f"data.crop_size=[{crop[0]},{crop[1]}]", "optimizer=sgd"),
        *(f"data.batch_size={batch}", f"data.num_workers={workers}", f"trainer.max_steps={steps}"),
        *(f"trainer.val_every_n_steps={steps}", f"trainer.accelerator={accelerator}", "output_dir={folder}/run"),
        *("+callbacks.clock._target_=benchmark.clock.Clock", "+callbacks.clock.path={folder}/clock.json"),
    ]
    peer = [
        *("-m", "benchmark.peer_run", "--root", str(root), "--steps", str(steps), "--batch", str(batch)),
        *("--crop", str(crop[0]), str(crop[1]), "--workers", str(workers), "--accelerator", accelerator),
        *("--folder", "{folder}", "--report", "{folder}/clock.json"),
    ]
    commands = {"float32": [*ours, "trainer.precision=32-true"], SEGFRAME: ours}
    missing = {}
    try:
        peers.need("segmentation_models_pytorch")
        commands[PEER] = peer
    except NotMeasurable as reason:
        missing[PEER] = str(reason)
    processes = {
        name: Process(words, setup.folder / "runs" / name.replace(" ", "_"), is_peer=name == PEER)
        for name, words in commands.items()
    }

    def clock(process: Process) -> Callable[[], float]:
        def seconds() -> float:
            times = process.run()[1]
            return times["end"] - times["start"]

        return seconds

    rounds = setup.pick(3, 1)
    seconds = alternating({name: clock(process) for name, process in processes.items()}, rounds, 600)
    return Measured(
        seconds,
        {name: process.peak() for name, process in processes.items()},
        missing,
        note=f"{'CamVid' if setup.camvid else 'generated images of that size'}, {counts['train']} images, {steps} "
        f"steps of {batch} crops of {crop[0]}x{crop[1]}, one validation of {counts['val']} images, {workers} workers; "
        "memory: proportional set size of the process and its workers together, sampled; without GPU memory",
        metrics={name: {"images/s": steps * batch / sorted(s)[len(s) // 2]} for name, s in seconds.items()},
    )


def startup(setup: Setup) -> Measured:
    """Seconds to the end of --help, and to the first training step on the embedded dataset; against imports alone."""
    folder = setup.folder / "startup"
    words = {
        "help": ["train.py", "--help"],
        "first step": [
            *("train.py", "data=shapes", "trainer=smoke", "output_dir={folder}/run"),
            *("+callbacks.clock._target_=benchmark.clock.Clock", "+callbacks.clock.path={folder}/clock.json"),
        ],
        "imports": ["-c", "import torch, pytorch_lightning, torchvision"],
    }

    def clock(process: Process) -> Callable[[], float]:
        def seconds() -> float:
            began, times = process.run()
            return times.get("start", times["end"]) - began

        return seconds

    processes = {name: Process(command, folder / name.replace(" ", "_")) for name, command in words.items()}
    clocks = {name: clock(process) for name, process in processes.items()}
    clocks["imports"]()  # fills the file cache
    return Measured(alternating(clocks, setup.pick(7, 1), 120))


GROUPS = (
    Group(
        (
            Row("run_equal_precision", PEER, Target(1 / 1.15, 1.0), ours="float32"),
            Row("run_defaults", PEER, Target(1 / 1.6, 1.0)),
        ),
        training,
    ),
    Group(
        (
            Row("help", "imports", Target(seconds=1.5), ours="help"),
            Row("first_step", "imports", Target(seconds_more=2.0), ours="first step"),
        ),
        startup,
    ),
)
