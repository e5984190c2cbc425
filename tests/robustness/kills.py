"""Runs that are killed at any moment and started again with the same command: they must end as if uninterrupted."""

import copy
import mmap
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import runs
from forks import Child
from report import Part, Settings

COMMON = (
    *("train.py", "model=unet", "backbone.channels=[8,16,32,64,512]", "head.channels=[64,32,16,8]"),
    *("data.dataset.size=32", "data.crop_size=32", "data.batch_size=4"),
    *("data.dataset.num_images={train: 12, val: 3, test: 2}", "trainer.accelerator=cpu", "resume=auto"),
    *("callbacks.curves.every_n_steps=2", "callbacks.images.num_images=1"),
)
RECIPES = {
    "sgd": ("trainer.max_steps=12", "trainer.val_every_n_steps=4", "trainer.checkpoint_every=3"),
    "early": (
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=0.5"),
        *("optimizer=adamw", "scheduler=cosine"),
        *("trainer.max_steps=20", "trainer.val_every_n_steps=3", "trainer.checkpoint_every=2"),
    ),
    "accumulate": (
        *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "optimizer=rmsprop", "scheduler=step"),
        *("scheduler.warmup_steps=3", "trainer.max_steps=10", "trainer.val_every_n_steps=5"),
        *("trainer.checkpoint_every=2", "data.batch_size=2"),
    ),
    "average": (
        *("callbacks=ema", "callbacks.average.decay=0.9", "callbacks.average.update_every_n_steps=2"),
        *("trainer.max_steps=11", "trainer.val_every_n_steps=4", "trainer.checkpoint_every=3"),
    ),
    "frozen": (
        *("backbone.frozen=c2", "aux_head=fcn", "aux_head.reads=c2", "optimizer=adamw"),
        *("trainer.max_steps=10", "trainer.val_every_n_steps=5", "trainer.checkpoint_every=3"),
    ),
    "windows": (
        *("inference=sliding_window", "inference.stride=12", "data.dataset.size=48", "batch_norm.frozen=statistics"),
        *("trainer.accumulate_grad_batches=2", "trainer.accumulated_mean=batches", "backbone.dropout=0.5"),
        *("trainer.max_steps=9", "trainer.val_every_n_steps=3", "trainer.checkpoint_every=2"),
    ),
}
"""Runs of seconds with checkpoints of 20 to 40 MB, so that writing them takes a good part of the time."""
MOMENTS = ("writing", "writing", "anytime", "validation", "file", "writing", "asked", "anytime", "writing", "asked")
"""Activities during which the signal is sent; mostly while a checkpoint is being written. "asked": not SIGKILL."""
WATCHED = ("config.yaml", "environment.json", "result.json", "metrics.csv", "events.*")


class Kill:
    """When and how the run of case `number` is killed."""

    def __init__(self, seed: int, number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        self.moment = MOMENTS[number % len(MOMENTS)]
        self.recipe = rng.choice(list(RECIPES))
        # At the n-th checkpoint, validation, step or change of a file; "anytime": of the uninterrupted run's time.
        self.count = rng.randint(1, 5 if self.moment == "writing" else 2)
        self.share = rng.uniform(0.05, 1.05)
        self.delay = rng.uniform(0, {"writing": 0.04, "validation": 0.1, "file": 0.002}.get(self.moment, 0.2))
        self.watched = rng.choice(WATCHED)
        self.signal = rng.choice((signal.SIGTERM, signal.SIGUSR1)) if self.moment == "asked" else signal.SIGKILL
        self.workers = rng.choice(((0, 2), (2, 0), (0, 0)))
        self.again = rng.random() < 0.3  # whether the resumed run is killed too


class Moment:
    """Whether the moment of a kill has come; `counts` are the training batches and validations begun, in shared memory.

    `install` is called in the child: it counts in the callback that every run has.
    """

    def __init__(self, kill: Kill, folder: Path, seconds: float) -> None:
        self.kill, self.folder = kill, folder
        self.due = time.monotonic() + kill.share * seconds
        self.counts = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
        self.seen: Any = None
        self.times = 0

    def install(self) -> None:
        from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint

        def count_batch(callback: Any, trainer: Any, *args: Any) -> None:
            self.counts[0] += 1

        def count_validation(callback: Any, trainer: Any, *args: Any) -> None:
            self.counts[1] += not trainer.sanity_checking

        PreemptionCheckpoint.on_train_batch_start = count_batch  # type: ignore[method-assign]
        PreemptionCheckpoint.on_validation_start = count_validation  # type: ignore[method-assign]

    def __call__(self) -> bool:
        kill, counts = self.kill, self.counts
        if kill.moment == "anytime":
            return time.monotonic() >= self.due
        if kill.moment == "validation":
            return bool(counts[1] >= kill.count)
        if kill.moment == "asked":
            return bool(counts[kill.count % 2] >= (kill.count if kill.count % 2 else 2 * kill.count))
        now = unfinished_checkpoints(self.folder) if kill.moment == "writing" else self._changes()
        if now != self.seen and now:
            self.times += 1
        self.seen = now
        return self.times >= kill.count and bool(now)

    def wait(self, child: Child) -> None:
        """Wait for the moment, or the run's end."""
        while child.poll() is None and not self():
            time.sleep(0.0005)
        time.sleep(self.kill.delay)

    def _changes(self) -> tuple[Any, ...]:
        paths = [*self.folder.glob(self.kill.watched), *self.folder.glob(f".{self.kill.watched}.unfinished")]
        try:
            return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
        except FileNotFoundError:
            return ()


def unfinished_checkpoints(folder: Path) -> tuple[str, ...]:
    """The checkpoints that are being written, or were when the run was killed."""
    return tuple(path.name for path in folder.glob("checkpoints/.*.unfinished"))


def run(settings: Settings, folder: Path) -> Part:
    """Kill 50 runs, or 20 in a quick run."""
    part = Part("kills", settings)
    expected, seconds = {}, {}
    for recipe in RECIPES:
        child = start(folder, recipe, f"uninterrupted-{recipe}", 0)
        code = child.wait()
        seconds[recipe] = time.monotonic() - child.started
        if code:
            part.add(-1, f"the uninterrupted run {recipe}", [f"exit code {code}", child.out])
            return part
        expected[recipe] = runs.digest(folder / f"uninterrupted-{recipe}")
    numbers = range(20 if settings.quick else 50) if settings.pick is None else [settings.pick]
    while_writing = 0
    for number in numbers:
        kill = Kill(settings.seed, number)
        name = f"killed-{number}"
        events, problems = kill_and_resume(kill, folder, name, seconds[kill.recipe])
        if not problems:
            problems = runs.differences(folder / name, expected[kill.recipe])
        while_writing += "while writing" in events
        title = f"{kill.recipe}, {kill.workers[0]} then {kill.workers[1]} workers, {kill.moment}: {events}"
        part.add(number, f"{title} ({vars(kill)})", problems, " ".join((*COMMON, *RECIPES[kill.recipe])))
        part.log(f"{number + 1:2} {title}")
        shutil.rmtree(folder / name, ignore_errors=True)
    part.log(f"{while_writing} of {len(numbers)} runs were killed while a checkpoint was being written")
    return part


def start(folder: Path, recipe: str, name: str, workers: int, moment: Moment | None = None) -> Child:
    """Start or resume a run: with the same command but for the number of workers."""
    words = (*COMMON, *RECIPES[recipe], f"output_dir={name}", f"data.num_workers={workers}")
    return Child(words, folder, folder / f"{name}.log", moment.install if moment else None)


def kill_and_resume(kill: Kill, folder: Path, name: str, seconds: float) -> tuple[str, list[str]]:
    """Run, kill, and resume to the end; return what happened, and the problems."""
    events, problems = [], []
    current = copy.copy(kill)
    for attempt in range(1 + kill.again):
        before = runs.files(folder / name)
        moment = Moment(current, folder / name, seconds)
        child = start(folder, kill.recipe, name, kill.workers[attempt % 2], moment)
        event = strike(child, current, moment)
        events.append(event)
        problems += [f"{event}: {loss}" for loss in runs.find_losses(folder / name, before)]
        if child.code not in (0, -signal.SIGKILL, 75):
            problems.append(f"{event}: exit code {child.code}\n{child.out[-2000:]}")
        if kill.signal != signal.SIGKILL and child.code == 75 and "continue with resume=" not in child.out:
            problems.append("exit code 75 without a message")
        current.moment, current.signal, current.share = "anytime", signal.SIGKILL, kill.share / 2
    child = start(folder, kill.recipe, name, kill.workers[1])
    if child.wait():
        problems.append(f"resuming: exit code {child.code}\n{child.out[-3000:]}")
    return ", ".join(events), problems


def strike(child: Child, kill: Kill, moment: Moment) -> str:
    """Wait for the moment and send the signal; return what the run was doing."""
    moment.wait(child)
    child.send(kill.signal)
    child.wait()
    if child.code == 0:
        return "had ended"
    batches, validations = moment.counts[:2].tolist()
    unfinished = unfinished_checkpoints(moment.folder)
    writing = f"while writing {unfinished[0][1:].removesuffix('.unfinished')}, " if unfinished else ""
    return f"{signal.Signals(kill.signal).name} {writing}after {batches} batches and {validations} validations"
