"""Signals that ask a run to end: until its first step they end it here, then callbacks.PreemptionCheckpoint does."""

import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

SIGUSR1 = getattr(signal, "SIGUSR1", signal.SIGTERM)
SIGUSR2 = getattr(signal, "SIGUSR2", signal.SIGTERM)
SIGNALS = (signal.SIGTERM, SIGUSR1, SIGUSR2, signal.SIGINT)
"""SIGTERM, Slurm's `--signal=USR1` and submitit's USR2, which schedulers send before they kill; and Ctrl-C."""
EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: the same command with resume=auto continues the run."""
SECONDS = 60
"""Seconds that a sweep waits for the last checkpoints of its jobs' processes."""
INTERRUPTED = 130
"""The shell's exit code of a program ended by Ctrl-C."""
PARENT = "SEGFRAME_PARENT"
"""Environment variable with the process id of the parent, at whose end a process ends too."""
PR_SET_PDEATHSIG = 1  # sys/prctl.h


def end_with_parent() -> None:
    """Let the system send this process SIGTERM when the one that PARENT names ends, however; on Linux only."""
    parent = os.environ.pop(PARENT, None)  # not that of its own children
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)


def listen() -> None:
    """Let SIGNALS end the program with their exit code from here on."""
    global owns_process
    owns_process = True
    _ending.clear()
    for number in SIGNALS:
        signal.signal(number, _end)
    # At exit Python restores the default handlers, which would end the program with another code.
    atexit.register(_ignore)


def listen_in_job() -> Callable[[], None] | None:
    """Within a job of submitit, listen, and return how it is queued again; None elsewhere.

    Submitit requeues on SIGUSR2 without waiting for a checkpoint.
    """
    requeue = signal.getsignal(SIGUSR2)
    if not callable(requeue):
        return None
    listen()
    return lambda: None if _slurm_decides() else requeue(SIGUSR2, None)


def stop_listening() -> None:
    """Ignore further signals: the job's result is about to be written."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _slurm_decides() -> bool:
    """Whether Slurm itself ends this job (scancel) or has queued it again, rather than waiting for what it does."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() != "RUNNING"


def exit_code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else EXIT_CODE


def signal_name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


owns_process = False
"""Whether this process is one of segframe's programs, rather than a notebook or a program that uses segframe."""


def end_at_once() -> None:
    """End the process without cleaning up: for the second Ctrl-C. In others' programs only what runs is ended."""
    if not owns_process:
        raise KeyboardInterrupt
    os._exit(INTERRUPTED)


def end(number: int) -> NoReturn:
    """End the program with a signal's exit code; further signals are ignored meanwhile."""
    _ending.add(number)
    _ignore()
    sys.exit(exit_code(number))


_ending: set[int] = set()
"""The signal that the program is ending for."""


def _ignore() -> None:
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: Any) -> None:
    if _ending:  # Lightning restores this handler when fit ends
        if number == signal.SIGINT:
            end_at_once()
        return
    _ending.add(number)
    jobs = [child for child in multiprocessing.active_children() if not child.daemon and child.pid]
    what = "the sweep ends with its jobs' current steps" if jobs else "ended before the first step"
    print(f"{signal_name(number)}: {what}; the same command starts again", flush=True)
    for job in jobs:
        os.kill(job.pid or 0, number)
    for job in jobs:
        job.join(SECONDS)
    end(number)
