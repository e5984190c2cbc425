"""Programs: Hydra's main, the command line, error messages, the table of a sweep."""

from segframe.cli.sweep import SweepTable

__all__ = ["SweepTable"]
