"""What a run's folder may ask for, which may be a stranger's: known parts, values, and places below itself."""

import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segframe.config.old_names import RENAMED
from segframe.config.schema import TrainConfig, yaml_files
from segframe.config.validate import check_parts, did_you_mean, walk
from segframe.errors import UserError

MOST_VALUES = 100_000
"""In a run's config with all references followed; ours have a few hundred, most of them classes and colours."""
WORKERS_PER_CORE = 8
"""More processes that load data are not started for a folder's sake: a run's own are one for each core or fewer."""
ONE_PROCESS = {"num_nodes": 1, "devices": 1, "strategy": "auto"}
"""What segframe runs as, by the arguments of Lightning's Trainer that could ask for more."""


def check_folder(folder: Path, repeated: Collection[str] = ()) -> None:
    """Refuses a run's folder that asks for more than values, known parts and its own files, before Hydra sees it.

    Hydra reads its own settings from such a config, and OmegaConf's resolvers can make any `_target_` while resolving.
    Believed is where the data lie: data.root, from which is read and to which data.download fetches what is published,
    and data.cache_dir, where files of decoded samples are made. All else is written below the folder, but for settings
    that the command line repeats.
    """
    check_files(folder)
    path = folder / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        # Ours have none, and a few lines of them stand for more than fits into memory.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UserError(f"{path} repeats values (with * and &), which no run's config does")
        config = OmegaConf.load(path)
        plain = OmegaConf.to_container(config)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read as a run's config ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} is not the config of a run")
    known = TrainConfig.__dataclass_fields__
    for key in map(str, config):
        if key not in known:
            raise UserError(f"{path}: {key} is no setting of a run{did_you_mean(key, known)}")
    for key, spec in known.items():
        if spec.default is MISSING and key not in config:
            raise UserError(f"{path} has no {key}: is it cut off?")
    # Hydra reads @package in comments; all else as YAML has decoded it: "\x24{" is "${" there.
    if "@package" in text or computes(plain):
        raise UserError(f"{path} computes values (with ${{...:...}} or @package), which is not done on resuming")
    if values(config, {}) > MOST_VALUES:
        raise UserError(f"{path} stands for more than {MOST_VALUES:,} values: its settings refer to each other")
    check_names(plain, repeated)
    check_places(plain, folder, repeated)
    try:
        check_parts(config)
        check_processes(config, repeated)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).partition(chr(10))[0]}") from error


def check_files(folder: Path) -> None:
    """Refuses links out of a run's folder, through which resume would write, and pipes, for which it would wait."""
    top = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in folders + files):
            target = os.path.realpath(path)
            if not Path(target).is_relative_to(top):
                raise UserError(f"{path} is a link out of the run's folder, where resume writes: put {target} there")
            if os.path.exists(target) and not (path.is_file() or path.is_dir()):
                raise UserError(f"{path} is neither a file nor a folder")


def values(node: Any, counted: dict[int, float]) -> float:
    """How many values a config stands for with all references followed; infinitely many where they go in a circle.

    `counted`: of the containers, by id, as each is counted once.
    """
    if not OmegaConf.is_config(node):
        return 1
    if id(node) not in counted:
        counted[id(node)] = math.inf
        total = 1.0
        for key in node if OmegaConf.is_dict(node) else range(len(node)):
            try:
                total += values(node[key], counted)
            except OmegaConfBaseException:  # missing, or a reference to nothing: named where it is used
                total += 1
            except RecursionError:
                total = math.inf
        counted[id(node)] = total
    return counted[id(node)]


def computes(node: Any) -> bool:
    """Whether plain containers have OmegaConf or Hydra do more than put the value of another setting into a text.

    Two of them in one text, or one beside a sign of the grammar, could together become what neither is.
    """
    if isinstance(node, dict):
        return any("${" in str(key) or "@package" in str(key) or computes(child) for key, child in node.items())
    if isinstance(node, list):
        return any(computes(child) for child in node)
    if isinstance(node, int | float | None):
        return False
    beside = re.sub(r"\$\{[\w.\[\]-]+\}", "", str(node), count=1)
    return "@package" in beside or ("${" in str(node) and ("$" in beside or "{" in beside))


def check_names(config: Any, repeated: Collection[str]) -> None:
    """Refuses a run folder's `_target_`s that neither configs/, our libraries' public classes nor the command line
    have.
    """
    ours = {
        node["_target_"]
        for path in yaml_files()
        for _, node in walk(OmegaConf.to_container(OmegaConf.load(path)), "")
        if "_target_" in node
    }
    libraries = re.compile(
        r"(albumentations|torch\.optim|pytorch_lightning\.callbacks)\.[A-Z]\w+"
        r"|pytorch_lightning\.loggers\.(CSV|TensorBoard)Logger"
    )
    for path, node in walk(config, ""):
        if "_args_" in node:  # would pass by what is known of the arguments' names
            raise UserError(f"{path}._args_: on resuming, arguments have names")
        if "_target_" not in node or f"{path}._target_" in repeated:
            continue
        name = node["_target_"]
        if not isinstance(name, str) or (RENAMED.get(name, name) not in ours and not libraries.fullmatch(name)):
            raise UserError(
                f"{path}._target_={name}: this is no part that segframe knows, so it is not run on resuming; if you "
                "know it, repeat the setting on the command line"
            )


def check_processes(config: DictConfig, repeated: Collection[str]) -> None:
    """Refuses a run folder that asks for more processes than a run of this machine would have."""
    for name, usual in ONE_PROCESS.items():
        value = OmegaConf.select(config, f"trainer.lightning.{name}", default=usual)
        if value != usual:
            raise UserError(
                f"trainer.lightning.{name}={value}: a run is one process on one device; remove it from config.yaml"
            )
    workers = OmegaConf.select(config, "data.num_workers")
    if "data.num_workers" in repeated or not isinstance(workers, int) or workers <= WORKERS_PER_CORE:
        return
    from segframe.data.datamodule import num_cores  # with torch, which few runs need this early

    if workers > WORKERS_PER_CORE * num_cores():
        raise UserError(
            f"data.num_workers={workers} is more than {WORKERS_PER_CORE} for each core of this machine: give another "
            "number on the command line, data.num_workers=..., or repeat this one there"
        )


def check_places(config: Any, folder: Path, repeated: Collection[str]) -> None:
    """Refuses a run folder's callbacks and loggers that would write, or delete what they wrote, outside of it."""
    top = os.path.abspath(folder)
    for path, node in walk(config, ""):
        for key in ("dirpath", "save_dir", "filename", "exclude_batches_path"):
            if node.get(key) is None or f"{path}.{key}" in repeated:
                continue
            value = str(node[key])
            place = os.path.abspath(os.path.join(top if key == "filename" else "", value.replace("${output_dir}", top)))
            if "$" in value.replace("${output_dir}", "") or not Path(place).is_relative_to(top):
                raise UserError(
                    f"{path}.{key}={value} is not below the run's folder, where resume writes; if you know that place, "
                    "repeat the setting on the command line"
                )


def holds_run(folder: Path) -> bool:
    """Whether a run has come to a checkpoint in this folder."""
    return (folder / "config.yaml").is_file() and any((folder / "checkpoints").glob("*.ckpt"))
