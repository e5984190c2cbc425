"""Overrides of a config, as words of Hydra's grammar."""

import re
from typing import Any

from omegaconf import OmegaConf

PLAIN = re.compile(r"[\w/.+%*@?|$-]*", re.ASCII)
"""Values that the grammar reads as they are."""


def quoted(value: str) -> str:
    """Return a value in Hydra's quotes, unless it is plain or quoted already."""
    if value[:1] in ("'", '"', "$") or PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("'", "\\'") + "'"


def key_of(override: str) -> str:
    """Return the setting or config group that an override names, without + or ~."""
    return override.partition("=")[0].lstrip("+~")


def overrides_of(hydra: Any) -> list[str]:
    """Return the overrides of a job from Hydra's own config, as they were typed: they may refer to settings."""
    words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return words
