"""Validation of a composed config before anything is built: keys, arguments of every `_target_`, types of values."""

import inspect
import json
import re
import typing
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Any

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from segframe.config.schema import TrainConfig
from segframe.errors import UserError

PARTS = (
    *("backbone", "head", "normalize", "batch_norm", "loss", "data", "data.dataset", "transforms", "optimizer"),
    *("param_groups", "scheduler", "trainer", "trainer.lightning", "callbacks", "logger", "output_weights"),
)

REQUIRED = ("data", "data.dataset", "transforms")
"""Those of PARTS that cannot be null."""


def check_parts(config: DictConfig) -> None:
    """UserError where a part of the config is a plain value instead of a mapping."""
    for part in PARTS:
        node = OmegaConf.select(config, part, default={})
        if node is None and part in REQUIRED:
            raise UserError(f"{part}=null: a run needs it; choose an option of configs/{part.partition('.')[0]}")
        if node is not None and not OmegaConf.is_dict(node) and node != {}:
            raise UserError(f"{part}={node}: a mapping of settings is expected; choose an option of configs/")


def check_targets(config: DictConfig, without: Sequence[str] = ()) -> None:
    """UserError for keys that are no arguments of their `_target_`, and for values that do not fit its annotations.

    `without`: keys of the root that are skipped because they may be incomplete.
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
                    raise UserError(f"{path}.{key}: {name} has no such argument{did_you_mean(key, parameters)}")
            elif not accepts(annotation(get_object(name), key), value):
                setting = find_source(config, f"{path}.{key}")
                raise UserError(f"{setting}={value}: {name} expects {describe_type(annotation(get_object(name), key))}")


def find_source(config: DictConfig, path: str) -> str:
    """The setting that a value comes from: the one that `path` refers to, if it is only a reference."""
    parent, _, key = path.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index, call-overload]
    reference = re.fullmatch(r"\$\{([a-z]\w*(?:\.\w+)*)\}", raw) if isinstance(raw, str) else None
    return find_source(config, reference[1]) if reference else path


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
    """The end of a message: `; did you mean x?`, or the list of what is known."""
    known = [name for name in known if name not in ("self", "features", "num_classes")]
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"


def annotation(target: Any, parameter: str) -> Any:
    """The type that a class's constructor or a function states for a parameter; Any where it states none."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function).get(parameter, Any)
    except Exception:  # forward references that only a type checker sees
        return Any


def accepts(hint: Any, value: Any) -> bool:
    """Whether a plain value of YAML fits an annotation; values with a `_target_` become objects and pass.

    Checked as JSON, whose lists stand for tuples and sequences, as YAML's do.
    """
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return True
    text = json.dumps(value)
    if '"_target_"' in text:
        return True
    adapter = type_adapter(hint)
    if adapter is None:
        return True
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError:
        return False
    return True


@cache
def type_adapter(hint: Any) -> TypeAdapter[Any] | None:
    """Pydantic's validator for an annotation; None where it has none."""
    try:
        return TypeAdapter(hint, config={"arbitrary_types_allowed": True})
    except PydanticUserError:  # dataclasses and the like bring a config of their own
        return None


def describe_type(hint: Any) -> str:
    """An annotation in the words of YAML."""
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    text = text.replace("typing.", "").replace("NoneType", "None").replace("None", "null")
    return text.replace("collections.abc.Sequence", "list").replace(" | torch.Tensor", "")


def check_numbers(config: DictConfig) -> None:
    """UserError for NaN, infinite numbers and integers beyond 64 bits."""
    for path, value in leaves(OmegaConf.to_container(config), ""):
        if (isinstance(value, float) and not isfinite(value)) or (isinstance(value, int) and abs(value) >= 2**63):
            raise UserError(f"{path}={value}: it must be a finite number")


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
    """Add the settings that the config of an older run lacks, with the schema's defaults."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(TrainConfig)), ""):
        for key, value in node.items():
            name = f"{path}.{key}".lstrip(".")
            if value != MISSING and OmegaConf.select(config, name, default=MISSING) == MISSING:
                OmegaConf.update(config, name, value, force_add=True)


def check_needs(config: DictConfig) -> None:
    """UserError where a recipe lacks a setting that it needs; init_from may replace backbone.weights."""
    for key in config.needs:
        if OmegaConf.select(config, key) is None and not (key == "backbone.weights" and config.init_from):
            raise UserError(
                f"{key} must be given: this recipe needs it, see its file in configs/experiment; needs=[] runs it "
                "without"
            )


def check_keys(config: DictConfig, schema: type = TrainConfig) -> None:
    """UserError for keys that the schema does not have (`+key=value` adds them) and values of the wrong type."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(schema), throw_on_missing=False), ""):
        given = OmegaConf.select(config, path) if path else config
        if path == "trainer.lightning" or not OmegaConf.is_dict(given):
            continue
        for key in map(str, given):
            if key not in node and path != "output_weights":
                raise UserError(f"{f'{path}.{key}'.lstrip('.')} is not a setting{did_you_mean(key, node)}")
    OmegaConf.merge(OmegaConf.structured(schema), config)
    check_numbers(config)
