"""A decision of a plan."""

from typing import Any, NamedTuple


class Decision(NamedTuple):
    """A setting, and why it has its value."""

    key: str
    """A config group (backbone) or a setting (head.rates), as on the command line."""
    value: Any
    reason: str
    given: bool = False
    """Whether the user has typed it."""
