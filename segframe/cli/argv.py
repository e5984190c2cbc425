"""Words of the command line, before anything is composed."""

import sys
from pathlib import Path

# Words whose values are paths, which Hydra's grammar would read as lists, dicts or sweeps where they hold its signs.
PATHS = (
    "checkpoint",
    "resume",
    "init_from",
    "input",
    "output",
    "output_dir",
    "json",
    "plot",
    "camvid",
    "data.root",
    "hydra.sweep.dir",
)

VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
"""Hydra's flags whose value may be a word of its own."""


def split_flags(argv: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and all other words."""
    flags: list[str] = []
    words: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        (flags if word.startswith("-") or (before in VALUED and "=" not in word) else words).append(word)
    return flags, words


def take_debug(argv: list[str]) -> bool:
    """Takes `debug=true` (or false) out of the command line, which is about this call and no setting of a run."""
    words = [word for word in argv if word.startswith("debug=")]
    for word in words:
        if word not in ("debug=true", "debug=false"):
            sys.exit(f"error: {word}: debug=true shows the traceback of every error; or debug=false")
        argv.remove(word)
    return words[-1:] == ["debug=true"]


def quote_path(word: str) -> str:
    """`key=value` with the value in quotes where it is a path."""
    key, equals, value = word.partition("=")
    return f"{key}={quoted(value)}" if equals and key in PATHS else word


def quoted(value: str) -> str:
    """A value in Hydra's quotes, unless it is plain or quoted already."""
    if value == "null" or value[:1] in ("'", '"', "$") or not set(value) & set("=,()[]{}: '\""):
        return value
    return "'" + value.replace("'", "\\'") + "'"


def given(name: str, argv: list[str]) -> Path | None:
    """The path that the command line gives as `name=...`, before anything is composed."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return Path(values[-1]) if values and values[-1] not in ("", "null") else None
