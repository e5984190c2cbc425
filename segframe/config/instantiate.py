"""Turn config nodes into objects."""

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segframe.errors import UserError, error_context


def instantiate(config: Any, part: str) -> Any:
    """The object (or partial) that a config node names, its lists and dicts plain."""
    # RuntimeError: torch, of sizes below zero.
    with error_context(part, MisconfigurationException, RuntimeError, ArithmeticError):
        try:
            return hydra.utils.instantiate(config, _convert_="all")
        except InstantiationException as error:
            # Hydra's own message says which target failed; the cause says why.
            raise (error.__cause__ if isinstance(error.__cause__, Exception) else ValueError(str(error))) from None


def instantiate_all(nodes: DictConfig, part: str, kind: type) -> dict[str, Any]:
    """The objects that a group's nodes name; those that are null are left out."""
    chosen = {f"{part}.{name!s}": node for name, node in nodes.items() if node is not None}
    found = {name: instantiate(node, name) for name, node in chosen.items()}
    for name, made in found.items():
        if not isinstance(made, kind):
            raise UserError(f"{name} makes a {type(made).__name__}, which is no {kind.__name__}: see configs/{part}")
    return found
