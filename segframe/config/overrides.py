"""Quoting and parsing of Hydra overrides such as `optimizer.lr=0.1`."""

import re
from typing import Any

from omegaconf import OmegaConf

PLAIN = re.compile(r"[\w/.+%*@?|$-]*", re.ASCII)
"""Values that need no quotes in Hydra's grammar."""


def quoted(value: str) -> str:
    """Return a value in Hydra's quotes, unless it is plain or quoted already."""
    if value[:1] in ("'", '"', "$") or PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("'", "\\'") + "'"


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def overrides_of(hydra: Any) -> list[str]:
    """Return a job's overrides from Hydra's own config, as typed: interpolations such as ${seed} are not resolved."""
    words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return words
