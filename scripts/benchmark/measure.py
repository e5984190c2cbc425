"""Time and peak memory of calls, interleaved so that other load on the machine affects all of them alike."""

import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmark.row import Measured, NotMeasurable, Setup
from segframe.analysis.planning.measure_machine import peak_bytes, reset_peak

Call = Callable[[], object]

MIN_ROUNDS = 3
MIN_SECONDS = 0.02  # per measurement: shorter calls are repeated


def compare(
    setup: Setup, makers: Mapping[str, Callable[[], Call]], *, memory: bool = True, differs: Mapping[str, str] = {}
) -> Measured:
    """Prepare the call of every variant, or record why it is missing, and measure them interleaved."""
    calls, missing = {}, {}
    for name, make in makers.items():
        try:
            calls[name] = make()
        except NotMeasurable as reason:
            missing[name] = str(reason)
    seconds = interleaved(calls, setup)
    peaks = {name: peak_memory(call, setup.device, 1 if setup.quick else 3) for name, call in calls.items() if memory}
    return Measured(seconds, peaks, missing, differs)


def interleaved(calls: Mapping[str, Call], setup: Setup) -> dict[str, list[float]]:
    """Seconds per call of every variant, round by round; short calls are repeated within a round."""
    clocks = {}
    for name, call in calls.items():
        once = _elapsed(call, 1, setup.device)
        # The first call includes one-time preparation, so a short one is timed again; on a GPU, kernels are compiled.
        if once < 1 or setup.device.type == "cuda":
            once = min(once, _elapsed(call, 1, setup.device))
        clocks[name] = _clock(call, max(1, round(MIN_SECONDS / max(once, 1e-9))), setup.device)
    return alternating(clocks, setup.rounds, setup.seconds)


def alternating(clocks: Mapping[str, Callable[[], float]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds returned by calls that time themselves, round by round, every other round in reverse order."""
    found: dict[str, list[float]] = {name: [] for name in clocks}
    end = time.perf_counter() + seconds
    for k in range(rounds):
        if k >= MIN_ROUNDS and time.perf_counter() > end:
            break
        gc.collect()
        for name in list(clocks) if k % 2 == 0 else list(clocks)[::-1]:
            found[name].append(clocks[name]())
    return found


def _clock(call: Call, repeats: int, device: torch.device) -> Callable[[], float]:
    return lambda: _elapsed(call, repeats, device)


def _elapsed(call: Call, repeats: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if it is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(call: Call, device: torch.device, times: int = 1) -> int | None:
    """Median over `times` calls of the peak memory in bytes, above that before the call.

    On a GPU the allocator's count, on Linux the process's resident memory; None elsewhere.
    """
    found = [_peak(call, device) for _ in range(times)]
    counted = [peak for peak in found if peak is not None]
    return round(statistics.median(counted)) if counted else None


def _peak(call: Call, device: torch.device) -> int | None:
    gc.collect()
    synchronize(device)
    before = reset_peak(device)
    call()
    synchronize(device)
    peak = peak_bytes(device)
    return None if before is None or peak is None else max(0, peak - before)


class TreeMemory(threading.Thread):
    """Sampler of the peak memory of a process and all its descendants together.

    Memory is the proportional set size (Linux), in which pages shared between processes, as after a fork, count once.
    """

    def __init__(self, pid: int, every: float = 0.2) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.every = every
        self.peak: int | None = None
        self._end = threading.Event()

    def run(self) -> None:
        while sys.platform == "linux" and not self._end.wait(self.every):
            held = sum(_proportional(pid) for pid in _tree(self.pid))
            self.peak = max(self.peak or 0, held) or None

    def stop(self) -> int | None:
        """End the sampling and return the peak in bytes; None if it cannot be measured on this system."""
        self._end.set()
        self.join()
        return self.peak


def _tree(pid: int) -> list[int]:
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, file.read_text().split())
        except OSError:  # it has ended
            continue
    return [pid, *(member for child in children for member in _tree(child))]


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
