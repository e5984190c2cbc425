"""The share of the training time that is spent waiting for batches."""

from itertools import pairwise
from time import perf_counter
from typing import Any

import torch


class StepTimer:
    """Divides the time between batches' starts and ends into waiting for data and computing.

    GPU work is asynchronous, so moments are CUDA events there: a batch that arrives late, but before the GPU's queue is
    empty, delays nothing. Nothing is synchronized before `take`.
    """

    def __init__(self) -> None:
        self._moments: list[tuple[str, Any]] = []  # each with the name of the time that it ends
        self._paused = False

    def start(self, device: torch.device) -> None:
        """Note that a batch has arrived."""
        self._end_time("pause" if self._paused else "wait", device)
        self._paused = False

    def end(self, device: torch.device) -> None:
        """Note that the work on the batch has been launched."""
        self._end_time("work", device)

    def pause(self) -> None:
        """The time until the next start counts as neither."""
        self._paused = True

    def take(self) -> tuple[float, float]:
        """The share of the time spent waiting (0 ... 1), and all the time in seconds, since the last call."""
        spent = {"wait": 0.0, "work": 0.0, "pause": 0.0}
        for (_, first), (name, second) in pairwise(self._moments):
            spent[name] += seconds(first, second)
        del self._moments[:-1]
        total = spent["wait"] + spent["work"] or 1e-9
        return spent["wait"] / total, total

    def _end_time(self, name: str, device: torch.device) -> None:
        moment: Any = perf_counter()
        if device.type == "cuda":  # the moment at which it has finished what was launched so far
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._moments.append((name, moment))


def seconds(first: Any, second: Any) -> float:
    """The time between two moments; waits for the second."""
    if isinstance(first, float):
        return second - first
    second.synchronize()
    return first.elapsed_time(second) / 1e3
