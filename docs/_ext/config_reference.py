"""The configuration reference: every setting of configs/, its default, type and the comment beside it, as Markdown.

A setting is described by the comment at the end of its line, or by the comment lines directly above it. An option that
overrides a setting of the option it is built on needs no comment of its own. The comment at the top of a file
describes the option as a whole; its indented lines are shown as they are.
"""

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segframe.config import run_schema, schema
from segframe.config.argument_types import annotation

CONFIGS = schema.CONFIG_DIR
PRESETS = ("experiment", "model", "multi_scale")
"""Groups whose options only set values of others."""
ROOTS = {
    "train": run_schema.TrainConfig,
    "evaluate": schema.EvaluateConfig,
    "predict": schema.PredictConfig,
    "check_data": schema.CheckDataConfig,
    "summary": schema.SummaryConfig,
    "plan": schema.PlanConfig,
    "export": schema.ExportConfig,
    "replay": schema.ReplayConfig,
    "report": schema.ReportConfig,
    "search": schema.SearchConfig,
}
GROUPS = (*schema.groups(), "hydra/launcher")
"""The config groups that the page shows."""
HYDRAS = ("_target_", "_partial_", "defaults")
"""Keys that Hydra reads, not segframe."""


class Setting(NamedTuple):
    """One key of a YAML file."""

    name: str
    """Dotted, from the top of the file."""
    default: str
    """As it is written in the file; empty for a mapping or a list of several lines."""
    comment: str
    """Empty if there is none."""


class Option(NamedTuple):
    """One YAML file."""

    group: str
    name: str
    header: list[str]
    """The lines of the comment at the top of the file."""
    bases: list[str]
    """Options of the same group that it is built on."""
    settings: list[Setting]
    is_preset: bool
    """Whether its keys are those of the whole configuration (`@package _global_`)."""
    targets: dict[str, str]
    """The classes and functions it names, by the dotted name of the mapping: "" is the file itself."""


def read_option(path: Path) -> Option:
    """Read a file of configs/."""
    text = path.read_text()
    lines = text.splitlines()
    comments = [line for line in lines[: _header_length(lines)] if not line.startswith("# @package")]
    header = [line.removeprefix("#").removeprefix(" ") for line in comments]
    settings = list(_settings(yaml.compose(text), lines, len(lines[: _header_length(lines)]), ""))
    plain = yaml.safe_load(text) or {}
    bases = [base.partition("@")[0] for base in plain.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    targets = dict(_targets(plain, ""))
    group = "" if path.parent == CONFIGS else path.parent.relative_to(CONFIGS).as_posix()
    return Option(group, path.stem, header, bases, settings, text.startswith("# @package"), targets)


def read_group(group: str) -> dict[str, Option]:
    """Read all options of a group by name, those with an underscore first."""
    return {path.stem: read_option(path) for path in sorted((CONFIGS / group).glob("*.yaml"))}


def _header_length(lines: list[str]) -> int:
    return next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _settings(node: Any, lines: list[str], header: int, prefix: str) -> Iterator[Setting]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value in HYDRAS:
            continue
        name = f"{prefix}{key.value}"
        nested = isinstance(value, yaml.CollectionNode) and not value.flow_style
        start = value.start_mark
        default = "" if nested else start.buffer[start.pointer : value.end_mark.pointer]
        end = key.end_mark if nested or value.end_mark.line != key.end_mark.line else value.end_mark
        comment = _comment(lines, key.start_mark.line, end.column, header)
        yield Setting(name, " ".join(default.split()), comment)
        if nested:
            yield from _settings(value, lines, header, f"{name}.")


def _comment(lines: list[str], row: int, column: int, header: int) -> str:
    above: list[str] = []
    while row - len(above) > header and lines[row - len(above) - 1].lstrip().startswith("#"):
        above.insert(0, lines[row - len(above) - 1].lstrip().lstrip("#").strip())
    beside = lines[row][column:].partition("#")[2].strip()
    return " ".join([*above, beside]).strip()


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield prefix, node["_target_"]
        for key, child in node.items():
            yield from _targets(child, f"{prefix}{key}.")


def inherited(option: Option, group: dict[str, Option], name: str) -> Setting | None:
    """The described setting of this name in an option, or in those it is built on."""
    for setting in option.settings:
        if setting.name == name and setting.comment:
            return setting
    for base in option.bases:
        if base in group and (found := inherited(group[base], group, name)):
            return found
    return None


def target_of(option: Option, group: dict[str, Option], prefix: str) -> str | None:
    """The class or function that a mapping of an option names, in its own file or in those it is built on."""
    if prefix in option.targets:
        return option.targets[prefix]
    found = (target_of(group[base], group, prefix) for base in option.bases if base in group)
    return next((target for target in found if target), None)


def undescribed() -> list[str]:
    """The settings that no comment describes, as file:key."""
    missing = []
    for group in ("", *GROUPS):
        if group in (*PRESETS, "script"):
            continue
        options = read_group(group)
        for option in options.values():
            for setting in option.settings:
                if " " not in setting.name and not inherited(option, options, setting.name):
                    missing.append(f"{group}/{option.name}.yaml: {setting.name}")
    return missing


def without_header() -> list[str]:
    """The files whose first line says nothing, but for those that only set values of the one they are built on."""
    options = [option for group in GROUPS for option in read_group(group).values() if group != "script"]
    return [f"{option.group}/{option.name}.yaml" for option in options if not option.header and not option.bases]


def reference() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for name, root in ROOTS.items():
        option = read_option(CONFIGS / f"{name}.yaml")
        parts.append(f"({name}-settings)=\n## {name}.yaml\n\n{prose(option.header)}\n")
        parts.append(table(option, {name: option}, "", root))
    for group in GROUPS:
        if group != "script":
            parts.append(group_section(group))
    return "\n".join(parts)


def group_section(group: str) -> str:
    """One config group: its options, then the settings that they introduce."""
    options = read_group(group)
    parts = [f"(group-{group.replace('/', '-')})=\n## {group}\n"]
    if group == "experiment":
        return "\n".join([*parts, *(recipe(option) for option in options.values() if option.name[0] != "_")])
    rows = ["| option | what it is | built on, sets |", "|---|---|---|"]
    for option in options.values():
        if option.name.startswith("_"):
            continue
        first = re.split(r"(?<=[.;]) (?=[A-Z])", " ".join(option.header), maxsplit=1)[0]
        built = f"`{option.bases[0]}`" if option.bases and option.bases[0] in options else ""
        values = [f"`{s.name}={s.default}`" for s in option.settings if s.default and s.default != "???"]
        overriding = bool(built) or group in PRESETS
        sets = ", ".join([built, *(values if overriding and len(values) < 9 else [])]).strip(", ")
        rows.append(f"| `{option.name}` | {escape(first)} | {sets.replace('|', chr(92) + '|')} |")
    parts.append("\n".join(rows) + "\n")
    if group in PRESETS:
        return "\n".join(parts)
    schema_of = {
        "data": run_schema.DataConfig,
        "trainer": run_schema.TrainerConfig,
        "normalize": run_schema.NormalizeConfig,
    }
    for option in options.values():
        own = [s for s in option.settings if s.comment]
        if own and not option.is_preset:
            users = [f"`{o.name}`" for o in options.values() if option.name in o.bases and o.name[0] != "_"]
            title = option.name if option.name.startswith("_") else f"{group}={option.name}"
            shared = f" Shared by {', '.join(users)}." if option.name.startswith("_") else ""
            parts.append(f"### {title}\n\n{prose(option.header)}{shared}\n")
            parts.append(table(option, options, f"{group.replace('/', '.')}.", schema_of.get(group)))
    return "\n".join(parts)


def recipe(option: Option) -> str:
    """A recipe's own description; its values are in its file."""
    return f"**`{option.name}`**\n\n{prose(option.header)}\n"


def table(option: Option, group: dict[str, Option], prefix: str, root: type | None) -> str:
    """The settings that a file introduces."""
    rows = []
    for setting in option.settings:
        described = inherited(option, group, setting.name)
        if described is None or (not setting.comment and setting.default == ""):
            continue
        parent, _, key = setting.name.rpartition(".")
        target = target_of(option, group, f"{parent}." if parent else "")
        own = target is not None and not target.startswith("hydra_plugins.")  # those need not be installed
        kind = type_of(target, key) if target and own else schema_type(root, setting.name) if root else ""
        default = "required" if setting.default == "???" else f"`{setting.default}`" if setting.default else ""
        rows.append([f"`{prefix}{setting.name}`", default, kind, escape(described.comment)])
    names = ["setting", "default", "type", "meaning"]
    shown = [k for k in range(len(names)) if names[k] != "type" or any(row[k] for row in rows)]
    lines = [[names[k] for k in shown], ["---" for _ in shown], *([row[k] for k in shown] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def type_of(target: str, parameter: str) -> str:
    """The annotation of a parameter of a class or function as a user reads it, as Markdown."""
    module, _, name = target.rpartition(".")
    kind = spell(annotation(getattr(importlib.import_module(module), name), parameter))
    return f"`{kind}`" if kind else ""


def schema_type(root: type | None, name: str) -> str:
    """The type and the limits of a setting in a schema, as Markdown."""
    limits = ""
    for key in name.split("."):
        known = {each.name: each for each in dataclasses.fields(root)} if dataclasses.is_dataclass(root) else {}
        hints = typing.get_type_hints(root) if known else {}
        limits = known[key].metadata.get("limits", "") if key in known else ""
        root = hints.get(key)
    kind = "" if root in (None, Any) or dataclasses.is_dataclass(root) else spell(root)
    return ", ".join([f"`{kind}`"] * bool(kind) + [limits] * bool(limits))


def spell(hint: Any) -> str:
    """A type annotation in the words of YAML."""
    if hint in ("", Any) or isinstance(hint, typing.TypeVar):
        return ""
    members = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Union:
        return " | ".join(map(spell, members))
    text = hint.__name__ if inspect.isclass(hint) and not members else str(hint)
    text = re.sub(r"(?:[a-z]\w*\.)+(?=[A-Za-z])", "", text.replace("NoneType", "None"))
    return text.replace("None", "null").replace("Sequence", "list").replace("Mapping", "dict") if len(text) < 70 else ""


def escape(text: str) -> str:
    """Plain text with `code` as Markdown."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if k % 2 else re.sub(r"([\\`*_\[\]<>])", r"\\\1", part) for k, part in enumerate(parts))


def prose(lines: list[str]) -> str:
    """A header comment: paragraphs, and indented lines as they are."""
    out: list[str] = []
    for indented, text in ((line.startswith("  "), line) for line in lines):
        if indented and out and out[-1].startswith("    "):
            out[-1] += f"\n  {text}"
        elif indented:
            out.append(f"    {text.strip()}" if not text.startswith("    ") else text)
        elif out and not out[-1].startswith("    "):
            out[-1] += f" {escape(text)}"
        else:
            out.append(escape(text))
    return "\n\n".join(out)


INTRODUCTION = """# Configuration reference

Made from the files in `configs/`: each setting under the name by which a command line sets it, with its default.
`null` is "none"; *required* settings have no default. What a default such as `${data.crop_size}` refers to is another
setting. Types are those of the schema, with the limits of their values, or of the class that takes the value. How files
are composed and checked is described in [Configuration](configuration.md).
"""
