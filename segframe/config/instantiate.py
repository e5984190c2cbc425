"""Turn config nodes into objects."""

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segframe.errors import UserError, error_context


def instantiate(config: Any, part: str) -> Any:
    """The object or partial that a config node names; lists and dicts reach it as plain containers."""
    if missing := sorted(OmegaConf.missing_keys(config) if OmegaConf.is_config(config) else ()):
        raise UserError(f"{missing[0]}: it must be given; type {missing[0]}=..., see configs/{part.partition('.')[0]}")
    # RuntimeError: torch raises it for negative sizes. ImportError: a logger's package is missing.
    with error_context(part, MisconfigurationException, RuntimeError, ArithmeticError, ImportError):
        try:
            return hydra.utils.instantiate(config, _convert_="all")
        except InstantiationException as error:
            raise (error.__cause__ if isinstance(error.__cause__, Exception) else ValueError(str(error))) from None


def instantiate_all(nodes: DictConfig, part: str, kind: type) -> dict[str, Any]:
    """The objects of a group's nodes by name; nodes that are null are left out."""
    chosen = {f"{part}.{name!s}": node for name, node in nodes.items() if node is not None}
    found = {name: instantiate(node, name) for name, node in chosen.items()}
    for name, made in found.items():
        if not isinstance(made, kind):
            raise UserError(f"{name}: it makes a {type(made).__name__}, not a {kind.__name__}; see configs/{part}")
    return found
