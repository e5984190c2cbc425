"""Whether values of YAML fit the annotations of the arguments that they become."""

import inspect
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

EXAMPLES = {int: "1", float: "0.5", bool: "true", str: "text"}
"""Values of mappings, for messages."""


def annotation(target: Any, parameter: str) -> Any:
    """The type that a class's constructor or a function states for a parameter; Any where it states none."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function).get(parameter, Any)
    except Exception:  # forward references that only a type checker sees
        return Any


def accepts(hint: Any, value: Any) -> bool:
    """Whether a plain value of YAML fits an annotation; mappings with a `_target_` become objects and pass.

    Checked as JSON, whose lists stand for tuples and sequences, as YAML's do.
    """
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return True
    text = json.dumps(value)
    if '"_target_"' in text:
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (list, Sequence) and isinstance(value, list) else ()
        return all(accepts(kind, entry) for kind in kinds for entry in value)
    adapter = type_adapter(hint)
    if adapter is None:
        return True
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError:
        return False
    return True


def entries(path: str, hint: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """A value, or the entries of a mapping whose annotation states their type, with their dotted paths and types."""
    by_name = isinstance(value, dict) and all(isinstance(key, str) and "." not in key for key in value)
    if typing.get_origin(hint) is dict and by_name and "_target_" not in value:
        for key, entry in value.items():
            yield from entries(f"{path}.{key}", typing.get_args(hint)[1], entry)
    else:
        yield path, hint, value


@cache
def type_adapter(hint: Any) -> TypeAdapter[Any] | None:
    """Pydantic's validator for an annotation; None where it has none."""
    try:
        return TypeAdapter(hint, config={"arbitrary_types_allowed": True})
    except PydanticUserError:  # dataclasses and the like bring a config of their own
        return None


def describe_type(hint: Any) -> str:
    """An annotation in the words of YAML."""
    if typing.get_origin(hint) in (dict, Mapping):
        values = typing.get_args(hint)[1]
        return f"a mapping such as {{name: {EXAMPLES.get(values, '...')}}}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(describe_type(kind) for kind in typing.get_args(hint) if kind.__module__ != "torch")
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    text = text.replace("typing.", "").replace("NoneType", "None").replace("None", "null")
    return text.replace("collections.abc.Sequence", "list").replace(" | torch.Tensor", "")
