"""How a scheduler or a user asks a run to end, and the answer before its first step; then it is callbacks.last's."""

import atexit
import os
import signal
import sys
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM), signal.SIGINT)
"""What schedulers send some seconds or minutes before they kill: SIGTERM, and Slurm's `--signal=USR1`; and Ctrl-C."""
EXIT_CODE = 75
"""sysexits.h's EX_TEMPFAIL: the same command with resume=auto goes on."""
INTERRUPTED = 130
"""The shell's code of a program that Ctrl-C ended."""


def listen() -> None:
    """From here on SIGNALS end the program with their exit code."""
    _ending.clear()
    for number in SIGNALS:
        signal.signal(number, _end)
    atexit.register(_ignore)  # Python would put the system's own answers back, which end it with their own code


def exit_code(number: int) -> int:
    """What a program ends with that a signal asked to end."""
    return INTERRUPTED if number == signal.SIGINT else EXIT_CODE


def named(number: int) -> str:
    """What a signal is called."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def end_at_once() -> None:
    """For the second Ctrl-C: nothing is written or cleaned up any more, whatever is under way."""
    os._exit(INTERRUPTED)


def end(number: int) -> NoReturn:
    """Ends the program with the signal's exit code, whatever schedulers send until it has."""
    _ending.add(number)
    _ignore()
    sys.exit(exit_code(number))


_ending: set[int] = set()
"""The signal that the program ends for."""


def _ignore() -> None:
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: Any) -> None:
    if _ending:  # Lightning has put this back in the meantime
        if number == signal.SIGINT:
            end_at_once()
        return
    print(f"{named(number)}: ended before a further step; the same command starts again", flush=True)
    end(number)
