"""Limits of the settings in a schema: stated beside a setting's type, and checked with the types."""

from dataclasses import field, fields, is_dataclass
from functools import partial
from math import inf
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.errors import UserError, check_range


def number(lowest: float, highest: float = inf, default: Any = MISSING, above: bool = False) -> Any:
    """A field of a schema for numbers from `lowest` to `highest`, or only `above` lowest; null has no limits."""
    check = partial(check_range, lowest=lowest, highest=highest, above=above)
    return field(default=default, metadata={"check": check})


def choice(*values: Any, default: Any = MISSING) -> Any:
    """A field of a schema for one of some values."""
    return field(default=default, metadata={"check": partial(check_choice, values=values)})


def check_choice(name: str, value: Any, values: tuple[Any, ...]) -> None:
    """UserError where a setting's value is none of `values`."""
    if value not in values:
        *first, last = [str(known).lower() if isinstance(known, bool) else str(known) for known in values]
        raise UserError(f"{name}={value}: it must be {', '.join(first)} or {last}")


def check_limits(config: DictConfig, prefix: str = "") -> None:
    """UserError for a value outside the limits of its schema; `prefix`: where the config is, for the message."""
    for setting in fields(OmegaConf.get_type(config)):  # type: ignore[arg-type]
        name, check = f"{prefix}{setting.name}", setting.metadata.get("check")
        if not (check or is_dataclass(setting.type)) or OmegaConf.is_missing(config, setting.name):
            continue
        value = config[setting.name]
        if check is None:
            check_limits(value, f"{name}.")
        elif value is not None:
            values = {f"{name}.{key!s}": v for key, v in value.items()} if OmegaConf.is_dict(value) else {name: value}
            for path, one in values.items():
                check(path, one)
