"""Quoting for Hydra's override grammar."""

import re

PLAIN = re.compile(r"[\w/.+%*@?|$-]*", re.ASCII)
"""Values that the grammar reads as they are."""


def quoted(value: str) -> str:
    """Return a value in Hydra's quotes, unless it is plain or quoted already."""
    if value[:1] in ("'", '"', "$") or PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("'", "\\'") + "'"
