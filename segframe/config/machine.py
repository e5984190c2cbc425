"""The CPU cores that this process may use."""

import os
import sys
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time per period, or max, and the period, in a container on Linux."""


def num_cores() -> int:
    """Return the number of cores that this process may use, within the limit of a container, rounded up."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if CPU_LIMIT.exists():
        time, period = CPU_LIMIT.read_text().split()
        if time != "max":
            cores = min(cores, -(-int(time) // int(period)))
    return cores
