"""The config of an existing run, which may be somebody else's: what it may refer to, build and write to."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segframe.config.old_names import current_name
from segframe.config.schema import TrainConfig, yaml_files
from segframe.config.validate import did_you_mean, walk
from segframe.errors import UserError

LIBRARY_CLASSES = re.compile(
    r"(albumentations|torch\.optim|pytorch_lightning\.callbacks)\.[A-Z]\w+"
    r"|pytorch_lightning\.loggers\.(CSV|TensorBoard)Logger"
)
"""The `_target_`s that a run's config may have beside those of configs/."""
PATH_KEYS = ("dirpath", "save_dir", "filename", "exclude_batches_path")
"""The arguments of callbacks and loggers that name where they write."""


def holds_run(folder: Path) -> bool:
    """Whether a run has written a checkpoint in this folder."""
    return (folder / "config.yaml").is_file() and any((folder / "checkpoints").glob("*.ckpt"))


def check_saved_run(folder: Path, repeated: Collection[str] = ()) -> None:
    """UserError where resuming a run's folder could run foreign code or write elsewhere; before Hydra reads it.

    Its config.yaml may hold values, references to other settings, and parts that configs/ or LIBRARY_CLASSES name; it
    may read data from anywhere, but write only below the folder. Settings in `repeated`, dotted names that the command
    line gives again, are trusted.
    """
    path = folder / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        config = OmegaConf.load(path)
        plain = OmegaConf.to_container(config)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read as a run's config ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} is not the config of a run")
    known = TrainConfig.__dataclass_fields__
    for key in map(str, config):
        if key not in known:
            raise UserError(f"{path}: {key} is no setting of a run{did_you_mean(key, known)}")
    for key, field in known.items():
        if field.default is MISSING and key not in config:
            raise UserError(f"{path} has no {key}: the file is incomplete; copy it from a backup")
    # Hydra reads @package in comments.
    if "@package" in text or computes(plain):
        raise UserError(f"{path} computes values (with ${{...:...}} or @package), which resuming does not allow")
    check_targets(plain, repeated)
    check_paths(plain, folder, repeated)


def check_targets(config: Any, repeated: Collection[str]) -> None:
    """UserError where a run's config names a class that neither configs/ nor LIBRARY_CLASSES have."""
    own = {
        node["_target_"]
        for path in yaml_files()
        for _, node in walk(OmegaConf.to_container(OmegaConf.load(path)), "")
        if "_target_" in node
    }
    for path, node in walk(config, ""):
        if "_args_" in node:  # positional arguments would escape the checks of their names
            raise UserError(f"{path}._args_: a run's config names its arguments; remove it")
        name = node.get("_target_")
        if name is None or f"{path}._target_" in repeated:
            continue
        if not isinstance(name, str) or (current_name(name) not in own and not LIBRARY_CLASSES.fullmatch(name)):
            raise UserError(
                f"{path}._target_={name}: this is no part of segframe, so resuming does not run it; if you trust it, "
                "repeat the setting on the command line"
            )


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
