"""Checks of a composed config before anything is built: keys, arguments of every `_target_`, plain values' types."""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.config.schema import TrainConfig
from segframe.errors import UserError

PARTS = (
    *("backbone", "head", "normalize", "batch_norm", "loss", "data", "data.dataset", "transforms", "optimizer"),
    *("param_groups", "scheduler", "trainer", "trainer.lightning", "callbacks", "logger", "output_weights"),
)


REQUIRED = ("data", "data.dataset", "transforms")
"""Those of PARTS that cannot be null."""


def check_parts(config: DictConfig) -> None:
    """Rejects plain values where a run has parts, which no group's option is."""
    for part in PARTS:
        node = OmegaConf.select(config, part, default={})
        if node is None and part in REQUIRED:
            raise UserError(f"{part}=null: no run can do without")
        if node is not None and not OmegaConf.is_dict(node) and node != {}:
            raise UserError(f"{part}={node}: here belongs a part of configs/, with its settings")


def check_targets(config: DictConfig, without: Sequence[str] = ()) -> None:
    """Rejects keys that a `_target_` takes no argument for, and plain values that its annotation excludes.

    `without`: keys of the root that are not looked at, because they need not be complete.
    """
    plain = {
        str(key): OmegaConf.to_container(config[key], resolve=True)
        for key in config
        if key not in without and OmegaConf.is_config(config[key])
    }
    for path, node in walk(plain, ""):
        if "_target_" not in node:
            continue
        name = node["_target_"]
        try:
            parameters = inspect.signature(get_object(name)).parameters
        except Exception as error:
            raise UserError(f"{path}._target_={name}: {str(error).partition(chr(10))[0]}") from error
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key, value in node.items():
            if key in ("_target_", "_partial_", "_convert_", "_recursive_"):
                continue
            if key not in parameters:
                if not takes_any:
                    raise UserError(f"{path}.{key}: {name} takes no such argument{did_you_mean(key, parameters)}")
            elif not accepts(annotation(get_object(name), key), value):
                setting = source(config, f"{path}.{key}")
                raise UserError(f"{setting}={value}: {name} expects {spell(annotation(get_object(name), key))}")


def source(config: DictConfig, path: str) -> str:
    """The setting from which a value comes: where `path` only refers to another one, that one."""
    parent, _, key = path.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index, call-overload]
    reference = re.fullmatch(r"\$\{([a-z]\w*(?:\.\w+)*)\}", raw) if isinstance(raw, str) else None
    return source(config, reference[1]) if reference else path


def walk(node: Any, path: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Every dict of nested containers, with its dotted path."""
    if isinstance(node, dict):
        yield path, node
        for key, child in node.items():
            yield from walk(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from walk(child, f"{path}[{index}]")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or what there is."""
    known = [name for name in known if name not in ("self", "features", "num_classes")]
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"


def annotation(target: Any, parameter: str) -> Any:
    """The type that a class's constructor or a function states for a parameter; Any where it cannot be told."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function).get(parameter, Any)
    except Exception:  # forward references that only a type checker sees
        return Any


def accepts(hint: Any, value: Any) -> bool:
    """Whether a plain value fits an annotation; dicts with `_target_` become objects and are not judged."""
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(accepts(member, value) for member in arguments)
    if origin is typing.Annotated:
        return accepts(arguments[0], value)
    if origin is Literal:
        return value in arguments
    if value is None:
        return hint in (None, type(None))
    kind = origin or hint
    if not inspect.isclass(kind):
        return True
    if isinstance(value, bool):
        return issubclass(bool, kind) if kind is not int else False
    if isinstance(value, int | float):
        return isinstance(value, kind) or (kind is float)
    if isinstance(value, str):
        # A text is a sequence of letters, which nobody asks for.
        return issubclass(kind, str | Path) or (issubclass(str, kind) and not issubclass(kind, Iterable))
    if isinstance(value, list):
        if issubclass(kind, str) or not (issubclass(list, kind) or issubclass(kind, Sequence)):
            return False
        members = [argument for argument in arguments if argument is not Ellipsis]
        if kind is tuple and members and Ellipsis not in arguments:
            return len(members) == len(value) and all(map(accepts, members, value))
        return not members or all(any(accepts(member, item) for member in members) for item in value)
    if isinstance(value, dict):
        if not (issubclass(dict, kind) or issubclass(kind, Mapping)):
            return False
        return len(arguments) != 2 or all(accepts(arguments[1], child) for child in value.values())
    return True


def spell(hint: Any) -> str:
    """An annotation as a user reads it."""
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    text = text.replace("typing.", "").replace("NoneType", "None").replace("None", "null")
    return text.replace("collections.abc.Sequence", "list").replace(" | torch.Tensor", "")


def check_numbers(config: DictConfig) -> None:
    """Rejects numbers that nothing can be computed with: NaN, infinite ones, and those beyond 64 bits."""
    for path, value in leaves(OmegaConf.to_container(config), ""):
        if (isinstance(value, float) and not isfinite(value)) or (isinstance(value, int) and abs(value) >= 2**63):
            raise UserError(f"{path}={value}: a finite number is needed")


def leaves(node: Any, path: str) -> Iterable[tuple[str, Any]]:
    """Every plain value of nested containers, with its dotted path."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from leaves(child, f"{path}[{index}]")
    else:
        yield path, node


def fill_in(config: DictConfig) -> None:
    """Adds the settings that a run's config from before them lacks, at the schema's defaults."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(TrainConfig)), ""):
        for key, value in node.items():
            name = f"{path}.{key}".lstrip(".")
            if value != MISSING and OmegaConf.select(config, name, default=MISSING) == MISSING:
                OmegaConf.update(config, name, value, force_add=True)


def check_needs(config: DictConfig) -> None:
    """Fails where a recipe is run without what it starts from; weights to start from do as well as the backbone's."""
    for key in config.needs:
        if OmegaConf.select(config, key) is None and not (key == "backbone.weights" and config.init_from):
            raise UserError(
                f"{key} must be given: this recipe starts from it, see its file in configs/experiment; "
                "needs=[] runs it without"
            )


def check_keys(config: DictConfig, schema: type = TrainConfig) -> None:
    """Rejects keys that the schema does not have, which `+key=value` lets through, and values of the wrong type."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(schema), throw_on_missing=False), ""):
        given = OmegaConf.select(config, path) if path else config
        if path == "trainer.lightning" or not OmegaConf.is_dict(given):
            continue
        for key in map(str, given):
            if key not in node and path != "output_weights":
                raise UserError(f"{f'{path}.{key}'.lstrip('.')} is not a setting{did_you_mean(key, node)}")
    OmegaConf.merge(OmegaConf.structured(schema), config)
    check_numbers(config)
