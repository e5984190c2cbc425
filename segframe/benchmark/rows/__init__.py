"""Every row there is, by subject."""

from segframe.benchmark.row import Group
from segframe.benchmark.rows import data, gpu, ops, runs, steps

GROUPS: tuple[Group, ...] = (*data.GROUPS, *ops.GROUPS, *steps.GROUPS, *runs.GROUPS, *gpu.GROUPS)
