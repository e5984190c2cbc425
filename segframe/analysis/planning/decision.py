"""A decision of a plan."""

from typing import Any, NamedTuple


class Decision(NamedTuple):
    """A setting, and why it has its value."""

    key: str
    """As on the command line: a group (backbone) or a setting (head.rates)."""
    value: Any
    reason: str
    given: bool = False
    """Whether the user has typed it."""
