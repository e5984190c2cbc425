"""Experiment files whose settings have their reasons beside them."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from segframe.analysis.planning.decision import Decision
from segframe.config import schema

WIDTH = 120
"""Maximum length of a line; longer reasons are written above their setting."""


def experiment_text(header: Sequence[str], decisions: Sequence[Decision]) -> str:
    """Return the YAML of an experiment: its header as comments, the chosen options, and the settings."""
    comments = [f"# {line}" for text in header for line in textwrap.wrap(text, WIDTH - 2, subsequent_indent="  ")]
    options = [decision for decision in decisions if decision.key in schema.groups()]
    lines = ["# @package _global_", *comments, "defaults:"]
    for option in options:
        lines += commented(f"  - override /{option.key}: {as_yaml(option.value)}", option.reason)
    settings = [decision for decision in decisions if decision not in options]
    return "\n".join([*lines, *nested(settings)]) + "\n"


def nested(decisions: Sequence[Decision]) -> Iterator[str]:
    """Yield the lines of settings as nested mappings, in the order in which their parents first occur."""
    tree: dict[str, Any] = {}
    for decision in decisions:
        *parents, last = decision.key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = decision
    yield from mapping(tree, "")


def mapping(tree: dict[str, Any], indent: str) -> Iterator[str]:
    for key, node in tree.items():
        if isinstance(node, Decision):
            yield from commented(f"{indent}{key}: {as_yaml(node.value)}", node.reason)
        else:
            yield f"{indent}{key}:"
            yield from mapping(node, indent + "  ")


def commented(line: str, reason: str) -> Iterator[str]:
    """Yield a line with its reason behind it, or above it if both are too long."""
    if len(line) + len(reason) + 4 <= WIDTH:
        yield f"{line}  # {reason}"
        return
    indent = line[: len(line) - len(line.lstrip())]
    yield from textwrap.wrap(reason, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    yield line


def as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n...\n").rstrip("\n")
