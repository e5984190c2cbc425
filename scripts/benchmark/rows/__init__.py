"""All rows, by subject."""

from benchmark.row import Group
from benchmark.rows import data, gpu, ops, runs, steps, windows

GROUPS: tuple[Group, ...] = (*data.GROUPS, *ops.GROUPS, *windows.GROUPS, *steps.GROUPS, *runs.GROUPS, *gpu.GROUPS)
