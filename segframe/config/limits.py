"""Limits of the settings in a schema: stated beside a setting's type, and checked with the types."""

from dataclasses import field, fields, is_dataclass
from functools import partial
from math import inf
from typing import Any, get_origin

from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.errors import UserError, check_range, range_in_words


def number(lowest: float, highest: float = inf, default: Any = MISSING, above: bool = False) -> Any:
    """Dataclass field for a number from `lowest` to `highest`; `above` excludes `lowest`. null passes the check."""
    check = partial(check_range, lowest=lowest, highest=highest, above=above)
    return field(default=default, metadata={"check": check, "limits": range_in_words(lowest, highest, above)})


def choice(*values: Any, default: Any = MISSING) -> Any:
    """Dataclass field for one of the given values; null is allowed too if it is the default."""
    known = (*values, None) if default is None else values
    check = partial(check_choice, values=known)
    return field(default=default, metadata={"check": check, "limits": choice_in_words(known)})


def check_choice(name: str, value: Any, values: tuple[Any, ...]) -> None:
    """UserError where a setting's value is none of `values`."""
    if value not in values:
        raise UserError(f"{name}={in_yaml(value)}: it must be {choice_in_words(values)}")


def choice_in_words(values: tuple[Any, ...]) -> str:
    *first, last = map(in_yaml, values)
    return f"{', '.join(first)} or {last}"


def in_yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_limits(config: DictConfig, prefix: str = "") -> None:
    """UserError for a value outside the limits of its schema; `prefix`: where the config is, for the message."""
    for setting in fields(OmegaConf.get_type(config)):  # type: ignore[arg-type]
        name, check = f"{prefix}{setting.name}", setting.metadata.get("check")
        if not (check or is_dataclass(setting.type)) or OmegaConf.is_missing(config, setting.name):
            continue
        value = config[setting.name]
        if check is None:
            check_limits(value, f"{name}.")
        elif get_origin(setting.type) is dict:
            for key, entry in value.items():
                check(f"{name}.{key!s}", entry)
        elif value is not None or check.func is check_choice:
            check(name, value)
