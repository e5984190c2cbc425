"""Runs on two devices that are killed and resumed on one, two or three: they must end as if uninterrupted."""

import math
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import runs
import torch
from forks import Child
from kills import Moment
from report import Part, Settings

from segframe.models.weights import checkpoint

WORDS = (
    *("train.py", "model=unet", "backbone.channels=[8,16,32,64,128]", "head.channels=[64,32,16,8]"),
    *("data.dataset.size=32", "data.crop_size=32", "data.batch_size=6", "trainer.max_restarts=1", "resume=auto"),
    *("data.dataset.num_images={train: 18, val: 4, test: 2}", "trainer.accelerator=cpu", "trainer.precision=64-true"),
    *("trainer.sync_batch_norm=true", "trainer.max_steps=18", "trainer.val_every_n_steps=6"),
    *("trainer.checkpoint_every=2", "callbacks.curves.every_n_steps=2", "callbacks.images.num_images=1"),
)
TOLERANCE = 1e-13
"""Of a tensor's largest value: float64's rounding, in sums over 18 steps in another order."""
MESSAGES = ("continue with resume=", "ended before the first step", "ended before the start", "the job was complete")
"""Of runs that a signal ends, one of them."""
SECONDS = 5
"""In which data loading workers notice that their process has gone."""


class Kill:
    """When and how the run of case `number` is killed, and on how many devices it is resumed."""

    def __init__(self, seed: int, number: int) -> None:
        rng = random.Random(f"devices {seed} {number}")
        # The launching process is asked to end, or one of the devices' processes is killed and started again.
        self.signal = signal.SIGKILL if number % 4 == 2 else signal.SIGTERM
        self.devices = (3, 1, 2)[number % 3]
        self.moment = rng.choice(("anytime", "writing", "file"))  # of which most are before, in and after training
        self.count = rng.randint(1, 6)
        self.share = rng.uniform(0.05, 1.05)
        self.delay = rng.uniform(0, 0.1)
        self.watched = rng.choice(("metrics.csv", "events.*"))
        self.workers = rng.choice((0, 1))
        self.victim = rng.randrange(2)


def run(settings: Settings, folder: Path) -> Part:
    """Kill 13 runs, or 3 in a quick run."""
    part = Part("devices", settings)
    if not Path("/proc").is_dir():
        part.skipped = "finds processes in /proc"
        return part
    child = start(folder, "uninterrupted", 2, 0)
    if child.wait():
        part.add(-1, "the uninterrupted run", [f"exit code {child.code}", child.out])
        return part
    seconds, expected = time.monotonic() - child.started, runs.digest(folder / "uninterrupted")
    for number in range(3 if settings.quick else 13) if settings.pick is None else [settings.pick]:
        kill, name = Kill(settings.seed, number), f"killed-{number}"
        event, problems = kill_and_resume(kill, folder, name, seconds)
        largest = math.nan
        if not problems:
            largest = deviation(weights(folder / name), weights(folder / "uninterrupted"))
            problems += [f"a tensor deviates by {largest:.1e}"] * (not largest <= TOLERANCE)
            problems += differences(runs.digest(folder / name), expected, exact="then 2" in event)
        title = f"{event} devices, deviation {largest:.1e}"
        part.add(number, f"{title} ({vars(kill)})", problems, " ".join(WORDS))
        part.log(f"{number + 1:2} {title}")
        shutil.rmtree(folder / name, ignore_errors=True)
    return part


def start(folder: Path, name: str, devices: int, workers: int) -> Child:
    """Start or resume a run: with the same command but for the numbers of devices and workers."""
    words = (*WORDS, f"trainer.devices={devices}", f"output_dir={name}", f"data.num_workers={workers}")
    return Child(words, folder, folder / f"{name}.log")


def kill_and_resume(kill: Kill, folder: Path, name: str, seconds: float) -> tuple[str, list[str]]:
    """Run on two devices, kill, and resume to the end; return what happened, and the problems."""
    child = start(folder, name, 2, kill.workers)
    Moment(kill, folder / name, seconds).wait(child)  # type: ignore[arg-type]
    before = runs.files(folder / name)
    stage = f"{kill.moment}, {len(before)} files there"
    sent = strike(child, kill)
    code, problems = child.wait(), []
    problems += [f"process {number} was left" for number in left_processes(folder)]
    problems += runs.find_losses(folder / name, before)
    if code not in ((0,) if kill.signal == signal.SIGKILL else (0, 75)):
        problems.append(f"exit code {code}\n{child.out[-3000:]}")
    if code == 75 and not any(message in child.out for message in MESSAGES):
        problems.append(f"exit code 75 without a message\n{child.out[-3000:]}")
    if sent and kill.signal == signal.SIGKILL and "starting again from the last checkpoint" not in child.out:
        problems.append(f"not started again\n{child.out[-3000:]}")
    event = f"{kill.signal.name if sent else 'ended before a kill'} {stage}, exit code {code}"
    if code != 75:
        return f"{event}, then 2", problems
    child = start(folder, name, kill.devices, kill.workers)
    if child.wait():
        problems.append(f"resuming on {kill.devices} devices: exit code {child.code}\n{child.out[-3000:]}")
    return f"{event}, then {kill.devices}", problems


def strike(child: Child, kill: Kill) -> bool:
    """Send the signal to the launching process, or to one of its two processes once it has them."""
    while child.poll() is None:
        processes = [child.pid] if kill.signal == signal.SIGTERM else children(child.pid)
        if kill.signal == signal.SIGTERM or len(processes) == 2:
            os.kill(processes[kill.victim % len(processes)], kill.signal)
            return True
        time.sleep(0.005)
    return False


def children(pid: int) -> list[int]:
    """The devices' processes of a launching process."""
    found = [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [number for number in found if b"segframe.cli.worker" in Path(f"/proc/{number}/cmdline").read_bytes()]


def left_processes(folder: Path) -> list[str]:
    """The processes in a folder that a run has left for SECONDS after its end; they are killed."""
    end = time.monotonic() + SECONDS
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):  # it has ended, or is another user's
                found += [path.parent.name] * (path.readlink() == folder)
        if not found or time.monotonic() > end:
            break
        time.sleep(0.1)
    for number in found:
        os.kill(int(number), signal.SIGKILL)
    return found


def weights(folder: Path) -> Any:
    """The last weights and states of the optimizer."""
    content = checkpoint.load_file(folder / "checkpoints/last.ckpt")
    return [content[key] for key in ("state_dict", "optimizer_states", "global_step")]


def deviation(found: Any, expected: Any) -> float:
    """The largest relative deviation of a tensor; infinite where one is missing or anything else differs."""
    if isinstance(expected, torch.Tensor):
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return math.inf
        if expected.is_floating_point():
            return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
        return 0 if torch.equal(found, expected) else math.inf
    if isinstance(expected, dict):
        return deviation(list(found.items()), list(expected.items()))
    if isinstance(expected, list | tuple) and len(found) == len(expected):
        return max((deviation(*pair) for pair in zip(found, expected, strict=True)), default=0)
    return 0 if found == expected else math.inf


def differences(found: dict[str, Any], expected: dict[str, Any], exact: bool) -> list[str]:
    """How metrics and curves differ; `exact`: to the bit, also checkpoints, and which pictures there are."""
    problems = []
    for key in sorted(expected.keys() | found.keys()):
        values = found.get(key), expected.get(key)
        compared = exact or key == "result" or key.startswith(("metrics.csv", "curve "))
        if compared and not (repr(values[0]) == repr(values[1]) or (not exact and are_close(*values))):
            problems.append(f"{key[-100:]} is {runs.short(values[0])}, uninterrupted {runs.short(values[1])}")
    return problems[:4]


def are_close(found: Any, expected: Any) -> bool:
    """Whether numbers, also in texts and lists, agree to six digits, as curves of float32 do."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return are_close(list(found.items()), list(expected.items()))
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(are_close, found, expected))
    try:
        return math.isclose(float(found), float(expected), rel_tol=1e-6)
    except (TypeError, ValueError):
        return bool(found == expected)
