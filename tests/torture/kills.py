"""Runs that are killed at any moment and given the same command again: they must end as if nothing had happened."""

import mmap
import random
import shutil
import signal
import time
from dataclasses import dataclass
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
        *(
            "callbacks=early_stopping",
            "callbacks.early_stopping.patience=2",
            "callbacks.early_stopping.min_delta=0.5",
            "optimizer=adamw",
            "scheduler=cosine",
        ),
        *("trainer.max_steps=20", "trainer.val_every_n_steps=3", "trainer.checkpoint_every=2"),
    ),
    "accumulate": (
        *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "optimizer=rmsprop", "scheduler=step"),
        *("scheduler.warmup_steps=3", "trainer.max_steps=10", "trainer.val_every_n_steps=5"),
        *("trainer.checkpoint_every=2", "data.batch_size=2"),
    ),
}
"""Runs of seconds with checkpoints of 20 to 40 megabytes, so that writing them takes a good part of the time."""
MOMENTS = ("writing", "writing", "anytime", "validation", "file", "writing", "asked", "anytime", "writing", "asked")
"""What is going on when the signal comes; a third of the kills and more while a checkpoint is being written."""
WATCHED = ("config.yaml", "environment.json", "result.json", "metrics.csv", "events.*")


@dataclass
class Kill:
    """One run's fate, drawn from the campaign's seed and its number."""

    recipe: str
    moment: str
    count: int
    """At the how-manieth checkpoint, validation, step or change of a file."""
    delay: float
    share: float
    """Of the whole run's time, where any moment will do."""
    watched: str
    signal: int
    workers: tuple[int, int]
    again: bool
    """Also killed while it goes on."""


def draw(seed: int, number: int) -> Kill:
    """The fate of run `number`."""
    rng = random.Random(f"{seed} {number}")
    moment = MOMENTS[number % len(MOMENTS)]
    asked = rng.choice((signal.SIGTERM, signal.SIGUSR1))
    return Kill(
        recipe=rng.choice(list(RECIPES)),
        moment=moment,
        count=rng.randint(1, 5 if moment == "writing" else 2),
        delay=rng.uniform(0, {"writing": 0.04, "validation": 0.1, "file": 0.002}.get(moment, 0.2)),
        share=rng.uniform(0.05, 1.05),
        watched=rng.choice(WATCHED),
        signal=asked if moment == "asked" else signal.SIGKILL,
        workers=rng.choice(((0, 2), (2, 0), (0, 0))),
        again=rng.random() < 0.3,
    )


class Observed:
    """What a child tells of itself through shared memory: how many steps and validations it has begun."""

    def __init__(self) -> None:
        self.counts = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)

    def install(self) -> None:
        """In the child: has the callback that is in every run count."""
        from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint

        def step(callback: Any, trainer: Any, *args: Any) -> None:
            self.counts[0] += 1

        def validation(callback: Any, trainer: Any, *args: Any) -> None:
            self.counts[1] += not trainer.sanity_checking

        PreemptionCheckpoint.on_train_batch_start = step  # type: ignore[method-assign]
        PreemptionCheckpoint.on_validation_start = validation  # type: ignore[method-assign]


class Moment:
    """Whether the moment of a kill has come."""

    def __init__(self, kill: Kill, folder: Path, observed: Observed, seconds: float) -> None:
        self.kill, self.folder, self.observed = kill, folder, observed
        self.due = time.monotonic() + kill.share * seconds
        self.seen: Any = None
        self.times = 0

    def __call__(self) -> bool:
        kill, counts = self.kill, self.observed.counts
        if kill.moment == "anytime":
            return time.monotonic() >= self.due
        if kill.moment == "validation":
            return bool(counts[1] >= kill.count)
        if kill.moment == "asked":
            return bool(counts[kill.count % 2] >= (kill.count if kill.count % 2 else 2 * kill.count))
        now = self._writing() if kill.moment == "writing" else self._changes()
        if now != self.seen and now:
            self.times += 1
        self.seen = now
        return self.times >= kill.count and bool(now)

    def _writing(self) -> tuple[str, ...]:
        return tuple(path.name for path in self.folder.glob("checkpoints/.*.unfinished"))

    def _changes(self) -> tuple[Any, ...]:
        paths = [*self.folder.glob(self.kill.watched), *self.folder.glob(f".{self.kill.watched}.unfinished")]
        try:
            return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
        except FileNotFoundError:
            return ()


def torture(settings: Settings, folder: Path) -> Part:
    """The part: 50 kills, quick: 20."""
    part = Part("kills", settings)
    whole, seconds = {}, {}
    for recipe in RECIPES:
        child = start(folder, recipe, f"whole-{recipe}", 0)
        code = child.wait()
        seconds[recipe] = time.monotonic() - child.started
        if code:
            part.note(-1, f"the run {recipe} that nothing happens to", [f"exit code {code}", child.out])
            return part
        whole[recipe] = runs.digest(folder / f"whole-{recipe}")
    translate_write_errors = 0
    numbers = range(20 if settings.quick else 50) if settings.pick is None else [settings.pick]
    for number in numbers:
        kill = draw(settings.seed, number)
        name = f"killed-{number}"
        told, complaints = endure(kill, folder, name, seconds[kill.recipe])
        if not complaints:
            complaints = runs.differences(folder / name, whole[kill.recipe])
        translate_write_errors += "while writing" in told
        title = f"{kill.recipe}, {kill.workers[0]} then {kill.workers[1]} workers, {kill.moment}: {told}"
        part.note(number, f"{title} ({kill})", complaints, " ".join(words(kill.recipe, name, kill.workers[0])))
        part.say(f"{number + 1:2} {title}")
        shutil.rmtree(folder / name, ignore_errors=True)
    part.say(f"{translate_write_errors} of {len(numbers)} runs were killed while a checkpoint was being written")
    return part


def words(recipe: str, name: str, workers: int) -> list[str]:
    """The command of a run, the same before and after it is killed."""
    return [*COMMON, *RECIPES[recipe], f"output_dir={name}", f"data.num_workers={workers}"]


def start(folder: Path, recipe: str, name: str, workers: int, observed: Observed | None = None) -> Child:
    """Begins a run, or goes on with it."""
    log = folder / f"{name}.log"
    return Child(words(recipe, name, workers), folder, log, observed.install if observed else None)


def endure(kill: Kill, folder: Path, name: str, seconds: float) -> tuple[str, list[str]]:
    """Runs, kills, goes on to the end; what happened, and what was wrong with it."""
    told, complaints = [], []
    moment = kill
    for part in range(1 + kill.again):
        before = runs.files(folder / name)
        observed = Observed()
        child = start(folder, kill.recipe, name, kill.workers[part % 2], observed)
        hit = strike(child, moment, Moment(moment, folder / name, observed, seconds))
        told.append(hit)
        complaints += [f"{hit}: {lost} is lost" for lost in sorted(before - runs.files(folder / name))]
        complaints += [f"{hit}: {damage}" for damage in runs.damages(folder / name)]
        if child.code not in (0, -signal.SIGKILL, 75):
            complaints.append(f"{hit}: exit code {child.code}\n{child.out[-2000:]}")
        if kill.signal != signal.SIGKILL and child.code == 75 and "go on with resume=" not in child.out:
            complaints.append("exit code 75 without a word")
        moment = Kill(**{**vars(kill), "moment": "anytime", "signal": signal.SIGKILL, "share": kill.share / 2})
    child = start(folder, kill.recipe, name, kill.workers[1])
    if child.wait():
        complaints.append(f"going on: exit code {child.code}\n{child.out[-3000:]}")
    return ", ".join(told), complaints


def strike(child: Child, kill: Kill, moment: Moment) -> str:
    """Waits for the moment and sends the signal; what the run was doing."""
    while child.poll() is None and not moment():
        time.sleep(0.0005)
    time.sleep(kill.delay)
    child.send(kill.signal)
    child.wait()
    if child.code == 0:
        return "had ended"
    steps, validations = moment.observed.counts[:2].tolist()
    translate_write_errors = [path.name for path in moment.folder.glob("checkpoints/.*.unfinished")]
    what = (
        f"while writing {translate_write_errors[0][1:].removesuffix('.unfinished')}, " if translate_write_errors else ""
    )
    return f"{signal.Signals(kill.signal).name} {what}after {steps} batches and {validations} validations"
