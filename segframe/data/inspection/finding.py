"""A row of check_data's report."""

from dataclasses import dataclass

from segframe.errors import shorten

ERROR, WARNING, NOTE = "error", "warning", "note"
"""Severities: what would stop a training, silent problems, facts."""


@dataclass
class Finding:
    """A row of the report."""

    severity: str
    split: str
    what: str
    files: list[str]
    """All affected files; empty if the finding is about the split."""
    advice: str

    def __post_init__(self) -> None:
        self.what, self.files = shorten(self.what), [shorten(file) for file in self.files]
