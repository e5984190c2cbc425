"""All rows, by subject."""

from benchmark.row import Group
from benchmark.rows import costs, data, gpu, inference, ops, runs, steps, windows

GROUPS: tuple[Group, ...] = (
    *data.GROUPS,
    *ops.GROUPS,
    *windows.GROUPS,
    *inference.GROUPS,
    *steps.GROUPS,
    *costs.GROUPS,
    *runs.GROUPS,
    *gpu.GROUPS,
)
