"""How a scheduler asks a run to end, and the answer before its first step; afterwards callbacks.last writes first."""

import signal
import sys
from typing import Any

SIGNALS = (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM))
"""What schedulers send some seconds or minutes before they kill: SIGTERM, and Slurm's `--signal=USR1`."""
EXIT_CODE = 75
"""sysexits.h's EX_TEMPFAIL: the same command with resume=auto goes on."""


def listen() -> None:
    """From here on SIGNALS end the program with EXIT_CODE."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: Any) -> None:
    print(f"{signal.Signals(number).name}: ended before a further step; the same command starts again", flush=True)
    sys.exit(EXIT_CODE)
