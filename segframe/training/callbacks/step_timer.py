"""The share of the training time that is spent waiting for batches."""

from time import perf_counter

import torch

Moment = float | torch.cuda.Event


class StepTimer:
    """Divides the time between batches' starts and ends into waiting for data and computing.

    GPU work is asynchronous, so moments are CUDA events there: a batch that arrives late, but before the GPU's queue is
    empty, delays nothing. Nothing is synchronized before `take`.
    """

    def __init__(self) -> None:
        self._waits: list[tuple[Moment, Moment]] = []
        self._works: list[tuple[Moment, Moment]] = []
        self._last: Moment | None = None  # start or end; None after a pause

    def start(self, device: torch.device) -> None:
        """A batch has arrived."""
        self._to_here(self._waits, device)

    def end(self, device: torch.device) -> None:
        """The work on the batch has been launched."""
        self._to_here(self._works, device)

    def pause(self) -> None:
        """The time until the next start counts as neither."""
        self._last = None

    def take(self) -> tuple[float, float]:
        """The share of the time spent waiting (0 ... 1), and all the time in seconds, since the last call."""
        waited, worked = (sum(seconds(*pair) for pair in pairs) for pairs in (self._waits, self._works))
        self._waits.clear()
        self._works.clear()
        total = waited + worked or 1e-9
        return waited / total, total

    def _to_here(self, pairs: list[tuple[Moment, Moment]], device: torch.device) -> None:
        moment = now(device)
        if self._last is not None:
            pairs.append((self._last, moment))
        self._last = moment


def now(device: torch.device) -> Moment:
    """The moment at which the device has finished what was launched so far."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(first: Moment, second: Moment) -> float:
    """The time between two moments; waits for the second."""
    if isinstance(first, float):
        assert isinstance(second, float)
        return second - first
    assert not isinstance(second, float)
    second.synchronize()
    return first.elapsed_time(second) / 1e3
