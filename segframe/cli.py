"""The command line: Hydra's main, with one clear sentence for what a user can cause."""

import functools
import gc
import logging
import os
import string
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segframe import config as schema
from segframe.errors import UserError
from segframe.preemption import INTERRUPTED

Job = Callable[[DictConfig], Any]

# Words whose values are paths, which Hydra's grammar would read as lists, dicts or sweeps where they hold its signs.
PATHS = (
    "checkpoint",
    "resume",
    "init_from",
    "input",
    "output",
    "output_dir",
    "json",
    "plot",
    "camvid",
    "data.root",
    "hydra.sweep.dir",
)


def command(config_name: str) -> Callable[[Job], Callable[[], None]]:
    """Makes `job(config)` a program: composes configs/<config_name>.yaml with the command line and runs it."""

    def decorate(job: Job) -> Callable[[], None]:
        @functools.wraps(job)
        def run_job(config: DictConfig) -> Any:
            try:
                return job(config)
            except Exception as error:
                forget_empty_folder()
                ours = not isinstance(error, USERS)
                if HydraConfig.get().mode is RunMode.MULTIRUN:
                    # The sweep goes on; its table tells.
                    if ours or debugging:
                        traceback.print_exc()
                    return Failure(sentence(error))
                if ours or debugging:
                    raise
                sys.exit(f"error: {sentence(error)}")

        debugging = False

        def main() -> None:
            nonlocal debugging
            # Ours to report: Hydra would print a traceback.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            schema.register()
            debugging = take_debug(sys.argv)
            # A full disk is told once, by what must be written; a line of the log need not.
            logging.raiseExceptions = debugging
            if "-m" not in sys.argv and "--multirun" not in sys.argv:
                sys.argv[1:] = [quote_path(word) for word in sys.argv[1:]]
            program = hydra.main(version_base="1.3", config_path=str(schema.CONFIG_DIR), config_name=config_name)
            try:
                if {"-h", "--help"} & set(sys.argv[1:]):
                    print(help_text(config_name, sys.argv[1:]))
                else:
                    with interruptible():
                        program(run_job)()
            except (HydraException, OmegaConfBaseException) as error:
                if debugging:
                    raise
                sys.exit(f"error: {explain(error, sys.argv[1:], config_name)}")
            except (UserError, OSError) as error:
                if debugging:
                    raise
                sys.exit(f"error: {error}")
            except ValueError as error:  # what Hydra says of aux_head=null and aux_head=5
                if debugging or not str(error).startswith("Config group override"):
                    raise
                sys.exit(f"error: {explain(error, sys.argv[1:], config_name)}")

        return main

    return decorate


def forget_empty_folder() -> None:
    """Removes a folder that Hydra made for a run which did not come to write into it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    own = given("output_dir", sys.argv) is None and folder != Path.cwd()
    if own and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the program at Ctrl-C without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def importing() -> Iterator[None]:
    """For the imports of torch and what goes with it: a second less without the garbage collector.

    It would look again and again through the hundreds of thousands of objects that they make, and that stay.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def help_text(config_name: str, argv: list[str]) -> str:
    """What a program's script/*.yaml says of it.

    Hydra's own --help lists every config group twice more, which takes longer than all else together.
    """
    words = [word for word in argv if not word.startswith("-")]
    with hydra.initialize_config_dir(str(schema.CONFIG_DIR), version_base="1.3"):
        config = hydra.compose(config_name, words, return_hydra_config=True)
    template = string.Template(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    return template.substitute(CONFIG=OmegaConf.to_yaml(config))


USERS = (UserError, OmegaConfBaseException, OSError)
"""What a user can put right, a full disk or a forbidden folder included; all else is ours and keeps its traceback."""


def take_debug(argv: list[str]) -> bool:
    """Takes `debug=true` (or false) out of the command line, which is about this call and no setting of a run."""
    words = [word for word in argv if word.startswith("debug=")]
    for word in words:
        if word not in ("debug=true", "debug=false"):
            sys.exit(f"error: {word}: debug=true shows the traceback of every error; or debug=false")
        argv.remove(word)
    return words[-1:] == ["debug=true"]


def quote_path(word: str) -> str:
    """`key=value` with the value in quotes where it is a path."""
    key, equals, value = word.partition("=")
    return f"{key}={quoted(value)}" if equals and key in PATHS else word


def quoted(value: str) -> str:
    """A value in Hydra's quotes, unless it is plain or quoted already."""
    if value == "null" or value[:1] in ("'", '"', "$") or not set(value) & set("=,()[]{}: '\""):
        return value
    return "'" + value.replace("'", "\\'") + "'"


class Failure(float):
    """A sweep job's result where it failed: not a number, with the reason."""

    reason: str

    def __new__(cls, reason: str) -> "Failure":
        """NaN that remembers `reason`."""
        failure = super().__new__(cls, "nan")
        failure.reason = reason
        return failure


def sentence(error: Exception) -> str:
    """An error's message as one line: its cause's where it only wraps one, after the key that OmegaConf names below."""
    if isinstance(error, MissingMandatoryValue):
        key = str(error).partition("Missing mandatory value: ")[2].split()[0]
        return f"{key} must be given: {key}=..."
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    return f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]


def explain(error: Exception, argv: list[str], config_name: str) -> str:
    """What is wrong with the command line, with the nearest right word; else the error's own sentence."""
    overrides = []
    for word in argv:
        if not word.startswith("-"):
            try:
                overrides.append(OverridesParser.create().parse_override(word))
            except HydraException as unreadable:
                if "=" not in word and word[0] != "~":
                    return f"cannot read {word!r} on the command line: a setting is given as name=value"
                return f"cannot read {word!r} on the command line: {sentence(unreadable)}"
    groups = [override for override in overrides if schema.is_group(override.key_or_group)]
    for override in groups:
        message = misspelt_option(override)
        if message:
            return message
    # A key that is not there; otherwise the error is about something else, and its own sentence says what.
    told = f"{error} {error.__cause__}"
    tree = compose_groups(groups, config_name) if "not in struct" in told or "Could not override" in told else None
    if tree is not None:
        for override in overrides:
            if override not in groups and not override.key_or_group.startswith("hydra."):
                message = misspelt_key(override, tree)
                if message:
                    return message
    if isinstance(error, MissingConfigException):
        return " ".join(str(error).split())
    return sentence(error)


def misspelt_option(override: Override) -> str | None:
    """A sentence on `group=option` where there is no such option."""
    group, known = override.key_or_group, schema.options(override.key_or_group)
    if override.is_delete() and override.value() is None:
        return None
    if override.is_sweep_override():
        chosen = [str(choice) for choice in override.sweep_string_iterator()]
    else:
        chosen = [str(override.get_value_element_as_str())]
    for option in chosen:
        if option not in known and not (schema.CONFIG_DIR / group / f"{option}.yaml").is_file():
            return f"{group}={option}: there is no such option{nearest(option, known)}"
    return None


def misspelt_key(override: Override, tree: DictConfig) -> str | None:
    """A sentence on `key=value` (or `+key`, `~key`) where no such key can be."""
    key = override.key_or_group
    known = list(dotted(tree, ""))
    parent = key.rpartition(".")[0]
    if key in known or (override.is_add() and parent in known):
        return None
    names = (
        known
        if "." in key
        else [name for name in known if "." not in name]
        + [path.name for path in schema.CONFIG_DIR.iterdir() if path.is_dir()]
    )
    if parent in known and OmegaConf.select(tree, parent) == {}:
        return f"{key} is not a setting yet; add it with +{key}=..."
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    close = get_close_matches(key, names, n=1, cutoff=0.7)
    # A right name in the wrong place: lr=0.1 for optimizer.lr.
    elsewhere = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if close or elsewhere:
        return f"{key} is not a setting; did you mean {(close or elsewhere)[0]}?"
    if siblings and parent:
        return f"{key} is not a setting{nearest(key, siblings)}"
    return f"{key} is not a setting; `--cfg job` shows all of them"


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean x?` or the list of what there is."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"


def compose_groups(groups: list[Override], config_name: str) -> DictConfig | None:
    """The config with the chosen groups but without any value of the command line; None where that fails too."""
    GlobalHydra.instance().clear()
    lines = [override.input_line or "" for override in groups if not override.is_sweep_override()]
    try:
        with hydra.initialize_config_dir(str(schema.CONFIG_DIR), version_base="1.3"):
            return hydra.compose(config_name, lines)
    except (HydraException, OmegaConfBaseException):
        return None


def dotted(node: Any, path: str) -> Any:
    """Every key of a config as a dotted name, unresolved."""
    plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    if isinstance(plain, dict):
        for key, child in plain.items():
            name = ".".join(part for part in (path, str(key)) if part)
            yield name
            yield from dotted(child, name)
    elif isinstance(plain, list):
        yield from dotted(dict(enumerate(plain)), path)


def given(name: str, argv: list[str]) -> Path | None:
    """The path that the command line gives as `name=...`, before anything is composed."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return Path(values[-1]) if values and values[-1] not in ("", "null") else None
