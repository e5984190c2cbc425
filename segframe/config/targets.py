"""Import of the classes and functions that a config's `_target_` names."""

import logging
import sys
import traceback
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_object

from segframe.errors import UserError

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it prints errors that are also raised


def import_target(path: str, name: Any) -> Any:
    """Return the object of a dotted name, `<path>._target_`; UserError if it is missing or its module fails."""
    try:
        return get_object(name)
    except Exception as error:  # importing runs the user's code
        reason = _explain(name, error.__cause__) if error.__cause__ else " ".join(str(error).split())
        raise UserError(f"{path}._target_={name}: {reason}") from error


def _explain(name: str, cause: BaseException) -> str:
    missing = str(cause.name) if isinstance(cause, ModuleNotFoundError) else ""
    parent, _, last = missing.rpartition(".")
    if parent and f"{name}.".startswith(f"{missing}."):
        close = get_close_matches(last, dir(sys.modules.get(parent)), n=1)
        return f"{parent} has no {last}" + (
            f"; did you mean {close[0]}?" if close else "; write a class or function that it has"
        )
    if missing and f"{name}.".startswith(f"{missing}."):
        return f"there is no module {missing}; install its package, or add the folder that holds it to PYTHONPATH"
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not frame.filename.startswith("<")]
    if len(frames) == 1:  # an attribute of a class; no module was imported
        return f"{cause}; choose a class or a function"
    file, line, message = frames[-1].filename, frames[-1].lineno, str(cause)
    if isinstance(cause, SyntaxError):
        file, line, message = cause.filename or file, cause.lineno, cause.msg
    return f"importing its module failed: {type(cause).__name__}: {message} ({file}, line {line}); correct it there"
