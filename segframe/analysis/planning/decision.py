"""A decision of a plan."""

from typing import Any, NamedTuple


class Decision(NamedTuple):
    """A setting, and why it has its value."""

    key: str
    """The config group (backbone) or setting (head.rates) that is chosen, as typed on the command line."""
    value: Any
    reason: str
    given: bool = False
    """Whether the user has typed it."""
