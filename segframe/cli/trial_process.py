"""The process of a search's trial, and what it may use of the machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FrozenTrial

from segframe import preemption
from segframe.config.machine import num_cores
from segframe.training.study import Lease, TrialAddress, read_result

COMMAND = [sys.executable, "-m", "segframe", "train"]
LOG = "trial.log"
"""The file in a trial's folder with all output of its process."""
MAX_KILLS = 5
"""Number of kills of a trial's process, without a new checkpoint in between, after which the trial has failed."""


class TrialProcess:
    """Runs a trial in a subprocess and restarts it when it is killed."""

    def __init__(
        self,
        trial: FrozenTrial,
        folder: Path,
        lease: Lease,
        command: list[str],
        address: TrialAddress,
        environment: dict[str, str],
    ) -> None:
        self.trial, self.folder, self.lease, self.command = trial, folder, lease, command
        self.environment = {**os.environ, **environment, **address.to_environment()}
        self.number = trial.number
        self._process: Any = None
        self._log_start = 0
        self._kills, self._checkpoint = 0, self._checkpoint_time()

    def start(self) -> None:
        """Start the process. It inherits the lock on the trial, which therefore stays locked if this driver exits."""
        with (self.folder / LOG).open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.lease.file],
            )

    def poll(self) -> int | None:
        code: int | None = self._process.poll()
        return code

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def error(self, code: int) -> str | None:
        """Why the ended trial failed, empty if it did not; None if it was interrupted and is to be started again."""
        if read_result(self.folder) is not None:
            return ""
        if code >= 0 and code not in (preemption.EXIT_CODE, preemption.INTERRUPTED):
            return self._last_line() or f"it ended with exit code {code} and without a result"
        checkpoint = self._checkpoint_time()
        self._kills = 1 if checkpoint != self._checkpoint else self._kills + 1
        self._checkpoint = checkpoint
        if self._kills < MAX_KILLS:
            return None
        by = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{by} {self._kills} times without a new checkpoint; did memory run out? see {self.folder / LOG}"

    def _checkpoint_time(self) -> float:
        path = self.folder / "checkpoints" / "last.ckpt"
        return path.stat().st_mtime if path.is_file() else 0.0

    def _last_line(self) -> str:
        """The line of the log that says why the process ended."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")] or lines
        return errors[-1].removeprefix("error: ")[:600] if errors else ""


def environments(workers: int | None, devices: int | str = 1) -> list[dict[str, str]]:
    """The environment of each trial that runs at a time: its share of GPUs, or of the cores.

    `devices`: of a trial; as many trials run at a time as the GPUs suffice for, where `workers` is None.
    """
    if workers == 1:
        return [{}]  # all of them
    gpus = visible_gpus()
    workers = workers or (len(gpus) // devices if isinstance(devices, int) else 1) or 1
    if workers == 1:
        return [{}]
    if gpus:
        share = max(1, len(gpus) // workers)
        starts = [k * share % len(gpus) for k in range(workers)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[start : start + share])} for start in starts]
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, num_cores() // workers)))}] * workers


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named == "":
        return []
    names = [str(k) for k in range(torch.cuda.device_count())] if named is None else named.split(",")
    return names[: torch.cuda.device_count()]
