"""The classes that a run's config or a checkpoint, which may be somebody else's, may name."""

import logging
import re
from collections.abc import Collection
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segframe.config.old_names import current_name
from segframe.config.schema import CONFIG_DIR
from segframe.config.targets import import_target
from segframe.config.validate import walk
from segframe.errors import UserError

log = logging.getLogger(__name__)

LIBRARY_CLASSES = {
    "transforms": r"albumentations\.[A-Z]\w+",
    "optimizer": r"torch\.optim\.[A-Z]\w+",
    "callbacks": r"pytorch_lightning\.callbacks\.[A-Z]\w+",
    "logger": r"pytorch_lightning\.loggers\.(CSV|TensorBoard)Logger",
}
"""For top-level keys the `_target_`s that need no trust beside those of segframe's own configs, as patterns."""
EVALUATED = ("backbone", "head", "aux_head", "loss", "data", "inference")
"""The parts of a run's config that programs build from its checkpoint."""


def check_trust(config: Any, trust: Collection[str], parts: Collection[str] | None = None) -> None:
    """UserError where a stored config names a class that is neither segframe's nor trusted; no such class is imported.

    `trust`: names of modules, packages or classes, from the command line of the program that reads the config, never
    from the config itself. `parts`: the top-level keys that are checked; None: all.
    """
    found = foreign_parts(config if parts is None else {key: config.get(key) for key in EVALUATED})
    every = ",".join(sorted({str(name) for name in found.values()}))
    for path, name in found.items():
        if parts is not None and top_key(path) not in parts:
            continue
        if not isinstance(name, str):
            raise UserError(f"{path}._target_={name}: it must be the dotted name of a class")
        if not is_below(name, trust):
            raise UserError(
                f"{path}._target_={name}: this is no part of segframe; if you trust its author, repeat its name on the "
                f"command line: trust=[{every}]"
            )
        check_origin(path, name, trust)


def report_foreign_parts(config: DictConfig, auto: bool) -> None:
    """Log what other programs will need for a run's parts outside segframe.

    `auto`: with resume=auto; UserError then if the same command could not continue the run.
    """
    names = sorted({str(name) for name in foreign_parts(OmegaConf.to_container(config)).values()})
    if auto and not all(is_below(name, config.trust) for name in names):
        raise UserError(
            f"resume=auto: this command could not continue the run, which has parts outside segframe; add "
            f"trust=[{','.join(names)}]"
        )
    if names:
        log.info("parts outside segframe: evaluate, predict, replay and resume=... need trust=[%s]", ",".join(names))


def foreign_parts(config: Any) -> dict[str, Any]:
    """The `_target_`s of nested containers, by path, that neither segframe's configs nor LIBRARY_CLASSES have."""
    found = {}
    for path, node in walk(config, ""):
        if "_args_" in node:  # positional arguments would escape the checks of their names
            raise UserError(f"{path}._args_: a run's config names its arguments; remove it")
        name = node.get("_target_")
        library = LIBRARY_CLASSES.get(top_key(path), "")
        own = isinstance(name, str) and (current_name(name) in own_parts() or re.fullmatch(library, name))
        if name is not None and not own:
            found[path] = name
    return found


def top_key(path: str) -> str:
    return re.split(r"[.\[]", path)[0]


@cache
def own_parts() -> frozenset[str]:
    texts = (path.read_text(encoding="utf-8") for path in CONFIG_DIR.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"\b_target_: *([\w.]+)", text))


def is_below(name: str, trust: Collection[str]) -> bool:
    return any(name == trusted or name.startswith(f"{trusted}.") for trusted in trust)


def check_origin(path: str, name: str, trust: Collection[str]) -> None:
    """UserError where a trusted name leads to what its module has only imported, as mypackage.os.system does."""
    part = import_target(path, name)
    origin = f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', '')}"
    if name not in trust and not is_below(origin, trust):
        raise UserError(f"{path}._target_={name}: it is {origin}, which is not below trust=[{','.join(trust)}]")
