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
MEMORY = "memory: proportional set size of the process and its workers together, sampled; without GPU memory"


@dataclass
class Process:
    """A command that is run repeatedly; `{folder}` in it is a new folder per run, in which Clock writes clock.json."""

    words: list[str]
    folder: Path
    is_peer: bool = False
    threads: int | None = None
    """Threads of arithmetic; None: as many as this process has."""
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
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads or torch.get_num_threads())},
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

    def seconds(self) -> float:
        """Run the command once; return the seconds from the first batch's start to the end of the training."""
        times = self.run()[1]
        return times["end"] - times["start"]

    def seconds_of_steps(self) -> float:
        """Run the command once; return the seconds from the second batch's start to the last batch's end."""
        times = self.run()[1]
        return times["batches"] - times["second"]


CLOCK = ("+callbacks.clock._target_=benchmark.clock.Clock", "+callbacks.clock.path={folder}/clock.json")


@dataclass(frozen=True)
class Training:
    """A training on CamVid by segframe and by the peer script: a network and how much work."""

    words: tuple[str, ...]
    """The network in segframe's settings."""
    network: str
    """The network of the peer script, on the same backbone."""
    batch: int
    steps: int
    crop: tuple[int, int]
    """Height and width in pixels; halved for a quick benchmark."""
    images: tuple[int, int]
    """Numbers of training and validation images."""
    rounds: int
    about: str = ""
    encoder: str = "resnet18"
    """Name of the peer script's encoder in segmentation-models-pytorch; its FCN-8s has VGG-16 instead."""

    def __call__(self, setup: Setup) -> Measured:
        """A training with loader, metric, validation and checkpoints, from the first batch to the end."""
        batch, steps, workers = self.batch, setup.pick(self.steps, 4), min(2, os.cpu_count() or 1)
        crop = [setup.pick(side, side // 2) for side in self.crop]
        counts = {"train": setup.pick(self.images[0], 16), "val": setup.pick(self.images[1], 2)}
        # Trainings with equally many images share them.
        root = setup.folder / f"camvid_{counts['train']}_{counts['val']}"
        if not root.is_dir():
            camvid_tree(root, setup.camvid, counts)
        root = root.resolve()
        accelerator = "gpu" if setup.device.type == "cuda" else "cpu"
        ours = [
            *("train.py", "data=camvid", f"data.root={root}", *self.words, "backbone.weights=null"),
            *(f"data.crop_size=[{crop[0]},{crop[1]}]", "optimizer=sgd", f"data.batch_size={batch}"),
            *(f"data.num_workers={workers}", f"trainer.max_steps={steps}", f"trainer.val_every_n_steps={steps}"),
            *(f"trainer.accelerator={accelerator}", "output_dir={folder}/run", *CLOCK),
        ]
        peer = [
            *("-m", "benchmark.peer_run", "--root", str(root), "--network", self.network, "--steps", str(steps)),
            *("--encoder", self.encoder, "--batch", str(batch)),
            *("--crop", str(crop[0]), str(crop[1]), "--workers", str(workers)),
            *("--accelerator", accelerator, "--folder", "{folder}", "--report", "{folder}/clock.json"),
        ]
        commands = {"float32": [*ours, "trainer.precision=32-true"], SEGFRAME: ours}
        missing = {}
        try:
            peers.need("segmentation_models_pytorch")
            commands[PEER] = peer
        except NotMeasurable as reason:
            missing[PEER] = str(reason)
        folder = setup.folder / "runs" / f"{self.network}_{self.encoder}"
        processes = {
            name: Process(words, folder / name.replace(" ", "_"), is_peer=name == PEER)
            for name, words in commands.items()
        }
        rounds = setup.pick(self.rounds, 1)
        seconds = alternating({name: process.seconds for name, process in processes.items()}, rounds, 600)
        return Measured(
            seconds,
            {name: process.peak() for name, process in processes.items()},
            missing,
            note=f"{self.about}{'CamVid' if setup.camvid else 'generated images of that size'}, {counts['train']} "
            f"images, {steps} steps of {batch} crops of {crop[0]}x{crop[1]}, one validation of {counts['val']} images, "
            f"{workers} workers; {MEMORY}",
            metrics={name: {"images/s": steps * batch / sorted(s)[len(s) // 2]} for name, s in seconds.items()},
        )


def startup(setup: Setup) -> Measured:
    """Seconds to the end of --help, and to the first training step on the embedded dataset; against imports alone."""
    folder = setup.folder / "startup"
    words = {
        "help": ["train.py", "--help"],
        "first step": [
            *("train.py", "data=shapes", "trainer=smoke", "output_dir={folder}/run"),
            *CLOCK,
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


def run(name: str, training: Training, float32: float, default: float) -> Group:
    """The rows of a training at equal precision and by defaults, with the targets of the time's ratios."""
    rows = (
        Row(f"{name}_equal_precision", PEER, Target(float32, 1.0), ours="float32"),
        Row(f"{name}_defaults", PEER, Target(default, 1.0)),
    )
    return Group(rows, training)


DEEPLAB = ("backbone=resnet18", "head=deeplabv3plus", "head.num_convs=1")
DEEPLAB_LITE0 = ("backbone=efficientnet_lite0", *DEEPLAB[1:])
FCN8S = ("model=fcn8s", "head.learned=all")
UNET = ("backbone=resnet18", "head=unet", "head.upsampling=bilinear", "head.channels=[256,128,64,32]")
"""U-Net with the decoder channels of smp.Unet, but without its last stage (16 channels at the images' size)."""

GROUPS = (
    run("run", Training(DEEPLAB, "deeplabv3plus", 4, 20, (352, 480), (48, 24), 3), 1 / 1.15, 1 / 1.6),
    run(
        "run_fcn8s",
        Training(FCN8S, "fcn8s", 2, 6, (192, 256), (24, 4), 2, "VGG-16 with fc6 and fc7; "),
        0.6,
        0.6,
    ),
    run(
        "run_unet",
        Training(UNET, "unet", 4, 8, (256, 320), (24, 8), 2, "ResNet-18; segframe's logits have stride 2, smp's 1; "),
        0.6,
        0.6,
    ),
    run(
        "run_efficientnet",
        Training(
            words=DEEPLAB_LITE0,
            network="deeplabv3plus",
            batch=4,
            steps=12,
            crop=(352, 480),
            images=(48, 8),
            rounds=2,
            about="EfficientNet-Lite0; ",
            encoder="tu-tf_efficientnet_lite0",
        ),
        0.6,
        0.6,
    ),
    Group(
        (
            Row("help", "imports", Target(seconds=1.5), ours="help"),
            Row("first_step", "imports", Target(seconds_more=2.0), ours="first step"),
        ),
        startup,
    ),
)
