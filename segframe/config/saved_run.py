"""The config of an existing run, which may be somebody else's: what it may refer to, build and write to."""

import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segframe.config.run_schema import TrainConfig
from segframe.config.trust import check_trust
from segframe.config.validate import did_you_mean, walk
from segframe.errors import UserError

PATH_KEYS = ("dirpath", "save_dir", "filename", "exclude_batches_path", "tracking_uri")
"""The arguments of callbacks and loggers that name where they write."""

READ_ERRORS = (
    *(OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException),
    AssertionError,  # OmegaConf's, for a file of a quoted number
)
"""Exceptions of `OmegaConf.load` for a file that is not a config."""


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any((folder / "checkpoints").glob("*.ckpt"))


def started_with(folder: Path) -> dict[str, str | None]:
    """The options of config groups that a run was started with; none for a run of an older version."""
    try:
        parts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return parts if isinstance(parts, dict) else {}


def check_same_parts(folder: Path, words: Iterable[str]) -> None:
    """UserError where a command line chooses another option of a config group than a run was started with."""
    started = started_with(folder)
    for word in words:
        group, _, option = word.lstrip("+").partition("=")
        if group in started and option != (started[group] or "null"):
            raise UserError(
                f"{word}: the run in {folder} was started with {group}={started[group] or 'null'}; choose another "
                "output_dir, or leave it as it was"
            )


def check_saved_run(folder: Path, repeated: Collection[str] = (), trust: Collection[str] = ()) -> None:
    """UserError where resuming a run's folder could run foreign code or write elsewhere; before Hydra reads it.

    Its config.yaml may hold values, references to other settings, and the parts that check_trust allows; it may read
    data from anywhere, but write only below the folder, and where the command line repeats: `repeated`, dotted names.
    """
    path = folder / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        config = OmegaConf.load(path)
        plain: Any = OmegaConf.to_container(config)
    except READ_ERRORS as error:
        raise UserError(f"{path} cannot be read as a run's config ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} is not the config of a run")
    known = TrainConfig.__dataclass_fields__
    for key in map(str, config):
        if key not in known:
            raise UserError(f"{path}: {key} is no setting of a run{did_you_mean(key, known)}")
    for key, field in known.items():
        if is_dataclass(field.type) and key in config and not isinstance(plain[key], dict):
            raise UserError(f"{path}: {key}={plain[key]} is no mapping of settings; copy the file from a backup")
        if field.default is MISSING and key not in config:
            raise UserError(f"{path} has no {key}: the file is incomplete; copy it from a backup")
    # Hydra reads @package in comments.
    if "@package" in text or computes(plain):
        raise UserError(f"{path} computes values (with ${{...:...}} or @package), which resuming does not allow")
    check_trust(plain, trust)
    check_paths(plain, folder, repeated)


def check_paths(config: Any, folder: Path, repeated: Collection[str]) -> None:
    """UserError where callbacks or loggers of a run's config would write outside of its folder."""
    top = os.path.abspath(folder)
    for path, node in walk(config, ""):
        for key in PATH_KEYS:
            if node.get(key) is None or f"{path}.{key}" in repeated:
                continue
            value = str(node[key])
            place = os.path.abspath(os.path.join(top if key == "filename" else "", value.replace("${output_dir}", top)))
            if "$" in value.replace("${output_dir}", "") or not Path(place).is_relative_to(top):
                raise UserError(
                    f"{path}.{key}={value}: this is not below the run's folder, where resuming writes; if you trust "
                    "it, repeat the setting on the command line"
                )


def computes(node: Any) -> bool:
    """Whether OmegaConf or Hydra would do more with plain containers than insert another setting's value.

    Two references in one text, or one beside a sign of the grammar, could together become what neither is.
    """
    if isinstance(node, dict):
        return any("${" in str(key) or "@package" in str(key) or computes(child) for key, child in node.items())
    if isinstance(node, list):
        return any(computes(child) for child in node)
    if isinstance(node, int | float | None):
        return False
    beside = re.sub(r"\$\{[\w.\[\]-]+\}", "", str(node), count=1)
    return "@package" in beside or ("${" in str(node) and ("$" in beside or "{" in beside))


def resolve_references(config: dict[str, Any]) -> dict[str, Any]:
    """A stored config with the values of other settings inserted; UserError where it would compute anything else."""
    if computes(config):
        raise UserError("its config computes values (with ${...:...}), which no run stores")
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"its config cannot be resolved ({str(error).partition(chr(10))[0]})") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
