"""Limits of settings, stated in the schemas."""

from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from omegaconf import MISSING, OmegaConf

from segframe.config import run_schema, schema
from segframe.config.limits import check_limits, choice, number
from segframe.errors import UserError


@dataclass
class Inner:
    share: float = number(0, 1, default=0.5)


@dataclass
class Outer:
    count: int = number(1)
    rate: float | None = number(0, default=None, above=True)
    mode: Any = choice("auto", True, False, default="auto")
    weights: dict[str, float] = number(0)
    inner: Inner = field(default_factory=Inner)
    part: Any = MISSING


def checked(**values):
    config = OmegaConf.structured(Outer(weights={}))
    OmegaConf.update(config, "weights", {"main": 1.0}, force_add=True)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    check_limits(config, "set.")


def test_values_within_limits_pass():
    checked()
    checked(count=1, rate=1e-9, mode=False, inner__share=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "set.count=0: it must be 1 or more"),
        ({"rate": 0.0}, "set.rate=0.0: it must be above 0"),
        ({"mode": "maybe"}, "set.mode=maybe: it must be auto, true or false"),
        ({"weights__aux": -0.5}, "set.weights.aux=-0.5: it must be 0 or more"),
        ({"inner__share": 1.5}, "set.inner.share=1.5: it must be between 0 and 1"),
    ],
)
def test_values_beyond_limits_are_named(values, message):
    with pytest.raises(UserError) as error:
        checked(**values)
    assert str(error.value) == message


SCHEMAS = [
    kind
    for module in (run_schema, schema)
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: kind.__name__)
def test_the_default_of_every_setting_is_within_its_limits(kind):
    check_limits(OmegaConf.structured(kind))


def test_the_settings_that_a_run_cannot_do_without_have_limits():
    limited = {setting.name for setting in fields(run_schema.TrainerConfig) if "check" in setting.metadata}
    assert {"max_epochs", "max_steps", "val_every_n_epochs", "val_every_n_steps", "gradient_clip_val"} <= limited
