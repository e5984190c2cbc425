"""Learning rates over a run."""

import math

import pytest
import torch
from conftest import composed, options

from segframe.config.instantiate import instantiate

TOTAL = 100


def rates(name, *overrides):
    make = instantiate(composed(f"scheduler={name}", *overrides).scheduler, "scheduler")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer, total_steps=TOTAL)
    found = []
    for _ in range(TOTAL + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("poly", lambda t: (1 - t / TOTAL) ** 0.9),
        ("cosine", lambda t: (1 + math.cos(math.pi * t / TOTAL)) / 2),
        ("step", lambda t: 1.0 if t < 60 else 0.1 if t < 90 else 0.01),
        ("constant", lambda t: 1.0),
    ],
)
def test_curves(name, curve):
    assert rates(name) == pytest.approx([2 * curve(t) for t in range(TOTAL + 1)])


@pytest.mark.parametrize("name", options("scheduler"))
def test_warm_up_rises_to_the_curve(name):
    plain, warm = rates(name), rates(name, "scheduler.warmup_steps=10", "scheduler.warmup_factor=0.1")
    assert warm[0] == pytest.approx(0.1 * plain[0])
    assert warm[5] == pytest.approx(0.55 * plain[5])
    assert warm[10:] == pytest.approx(plain[10:])
