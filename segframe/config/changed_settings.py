"""The settings of a run that differ from the defaults."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segframe.config import schema
from segframe.config.composition import compose, typed_overrides
from segframe.config.overrides import key_of

PLACES = ("output_dir", "resume", "trust")
"""Settings for file locations and trust; they do not change what is trained."""
NOT_COMPARED = (*PLACES, "init_from", "callbacks.", "logger.", "data.root", "data.cache")
"""Beginnings of the settings that are left out of comparisons of runs."""


def changed_settings(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (setting, the run's value, the default) where a run's config differs from `python train.py` alone.

    "-": there is no such setting on this side.
    """
    default = deepcopy(default_config())
    for name in ("output_dir", "monitor_mode"):  # which other settings refer to, and every run resolves
        default[name] = config.get(name)
    before, after = flatten(OmegaConf.to_container(default, resolve=True)), flatten(config)
    changed = [name for name in after if after[name] != before.get(name)]
    parts = tuple(f"{name}." for name in changed if name in before)  # others have other settings
    changed += [name for name in before if name not in after and not name.startswith(parts)]
    return [(name, after.get(name, "-"), before.get(name, "-")) for name in changed if name not in PLACES]


def compared_settings(config: DictConfig) -> dict[str, str | float]:
    """The settings by which a run is compared with others: those that differ from the defaults, or were typed.

    A sweep types the same settings in all of its jobs, the default values among them. Left out are those that only
    repeat another setting, and those that only the chosen part has; a part chosen by its option's name has that name.
    """
    options = {key_of(word): word.partition("=")[2] for word in typed_overrides() if "=" in word}
    changed = changed_settings(plain(config, resolve=True))
    names = {name for name, _, default in changed if default != "-"} | options.keys()
    found: dict[str, str | float] = {}
    for name, text in flatten(plain(config, resolve=False)).items():
        if name in names and "${" not in text and not name.startswith(NOT_COMPARED):
            value = OmegaConf.select(config, name)
            found[name] = value if type(value) in (int, float) else text
    return found | {name: option for name, option in options.items() if name in schema.groups()}


def plain(config: DictConfig, resolve: bool) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


@cache
def default_config() -> DictConfig:
    """The config of `python train.py`, composed also while Hydra runs a program with another one."""
    schema.store_schemas()
    return compose("train")


def flatten(node: Any, path: str = "") -> dict[str, str]:
    """The values of nested mappings as text, by dotted name; a part's class has the part's name."""
    if isinstance(node, list) and any(isinstance(child, Mapping) for child in node):
        return {name: text for k, child in enumerate(node) for name, text in flatten(child, f"{path}[{k}]").items()}
    if not isinstance(node, Mapping):
        return {path: "null" if node is None else str(node).lower() if isinstance(node, bool) else str(node)}
    if not node and path:
        return {path: "{}"}
    found: dict[str, str] = {}
    for key, child in node.items():
        if key == "_target_":
            found[path] = str(child).rpartition(".")[2]
        elif key != "_partial_":
            found |= flatten(child, f"{path}.{key}" if path else str(key))
    return found
