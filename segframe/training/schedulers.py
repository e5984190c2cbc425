"""Learning rate schedules: (optimizer, total_steps) -> scheduler, stepped after every optimizer step.

All have a linear warm-up: over `warmup_steps` the curve is scaled by a factor that rises from `warmup_factor` to 1.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segframe.errors import check_range


def poly_lr(
    optimizer: Optimizer, total_steps: int, power: float, min_factor: float, warmup_steps: int, warmup_factor: float
) -> LambdaLR:
    """lr * (1 - step / total_steps) ** power (DeepLab v2, 2017), not below lr * min_factor."""
    check_range("scheduler.power", power, 0)
    check_range("scheduler.min_factor", min_factor, 0, 1)

    def curve(step: int) -> float:
        return max((1 - step / total_steps) ** power, min_factor) if step < total_steps else min_factor

    return with_warmup(optimizer, curve, warmup_steps, warmup_factor)


def cosine_lr(
    optimizer: Optimizer, total_steps: int, min_factor: float, warmup_steps: int, warmup_factor: float
) -> LambdaLR:
    """Half a cosine from lr to lr * min_factor (Loshchilov & Hutter, 2017), without restarts."""
    check_range("scheduler.min_factor", min_factor, 0, 1)

    def curve(step: int) -> float:
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * min(step / total_steps, 1))) / 2

    return with_warmup(optimizer, curve, warmup_steps, warmup_factor)


def step_lr(
    optimizer: Optimizer,
    total_steps: int,
    milestones: list[float],
    factor: float,
    warmup_steps: int,
    warmup_factor: float,
) -> LambdaLR:
    """lr times `factor` at each milestone: a share of the run (below 1) or a step (1 and above)."""
    check_range("scheduler.factor", factor, 0)
    for milestone in milestones:
        check_range("scheduler.milestones", milestone, 0)
    steps = [milestone * total_steps if milestone < 1 else milestone for milestone in milestones]

    def curve(step: int) -> float:
        return factor ** sum(step >= milestone for milestone in steps)

    return with_warmup(optimizer, curve, warmup_steps, warmup_factor)


def constant_lr(optimizer: Optimizer, total_steps: int, warmup_steps: int, warmup_factor: float) -> LambdaLR:
    """lr throughout."""
    return with_warmup(optimizer, lambda step: 1.0, warmup_steps, warmup_factor)


def with_warmup(
    optimizer: Optimizer, curve: Callable[[int], float], warmup_steps: int, warmup_factor: float
) -> LambdaLR:
    """The scheduler of a curve (step -> factor of lr), its beginning scaled by the warm-up."""
    check_range("scheduler.warmup_steps", warmup_steps, 0)
    check_range("scheduler.warmup_factor", warmup_factor, 0, 1)

    def factor(step: int) -> float:
        if step >= warmup_steps:
            return curve(step)
        return curve(step) * (warmup_factor + (1 - warmup_factor) * step / warmup_steps)

    return LambdaLR(optimizer, factor)
