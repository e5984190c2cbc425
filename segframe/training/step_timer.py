"""The share of the training time that is spent waiting for batches."""

from itertools import pairwise
from time import perf_counter
from typing import Any

import torch


class StepTimer:
    """Divides the training time into waiting for data and work on the batches.

    GPU work is asynchronous, so moments are CUDA events there: a batch that arrives late, but before the GPU's queue is
    empty, delays nothing. Nothing is synchronized before `take`.
    """

    def __init__(self) -> None:
        self._moments: list[tuple[str, Any]] = []  # each with the name of the time that it ends
        self._paused = False

    def start(self, device: torch.device, idle_since: Any) -> None:
        """Record that the next batch has arrived; the time since the moment `idle_since` was spent waiting for it."""
        if self._moments:
            self._moments.append(("pause" if self._paused else "work", idle_since))
        self._moments.append(("wait", moment(device)))
        self._paused = False

    def pause(self, device: torch.device) -> None:
        """Count the time from now until the `idle_since` of the next `start` as neither work nor waiting."""
        if self._moments:
            self._moments.append(("work", moment(device)))
            self._paused = True

    def take(self, device: torch.device) -> tuple[float, float]:
        """The share of the time spent waiting (0 ... 1), and all the time in seconds, since the last call."""
        self._moments.append(("pause" if self._paused else "work", moment(device)))
        spent = {"wait": 0.0, "work": 0.0, "pause": 0.0}
        for (_, first), (name, second) in pairwise(self._moments):
            spent[name] += seconds(first, second)
        del self._moments[:-1]
        total = spent["wait"] + spent["work"] or 1e-9
        return spent["wait"] / total, total


def moment(device: torch.device) -> Any:
    """The current time in seconds; on a GPU a CUDA event, recorded after the work that has been launched so far."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(first: Any, second: Any) -> float:
    """The time between two moments; waits for the second."""
    if isinstance(first, float):
        return second - first
    second.synchronize()
    return first.elapsed_time(second) / 1e3
