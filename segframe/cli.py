"""The command line: Hydra's main, which ends in one clear sentence where a user is the cause."""

import functools
import gc
import logging
import os
import string
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from segframe import config as schema
from segframe.errors import UserError
from segframe.explain import explain, sentence, unreadable
from segframe.output import make_lasting
from segframe.preemption import INTERRUPTED
from segframe.run_folder import separated

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
            make_lasting()
            # Ours to report: Hydra would print a traceback.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            schema.register()
            debugging = take_debug(sys.argv)
            # A full disk is told once, by what must be written; a line of the log need not.
            logging.raiseExceptions = debugging
            for word in sys.argv[1:]:
                if word.endswith("=") and word[:-1] in PATHS:
                    sys.exit(f"error: {word} says nothing: is a variable of the shell empty? {word}null for none")
            if "-m" not in sys.argv and "--multirun" not in sys.argv:
                sys.argv[1:] = [quote_path(word) for word in sys.argv[1:]]
            program = hydra.main(version_base="1.3", config_path=str(schema.CONFIG_DIR), config_name=config_name)
            try:
                if {"-h", "--help"} & set(sys.argv[1:]):
                    print(help_text(config_name, sys.argv[1:]), flush=True)
                else:
                    with interruptible():
                        program(run_job)()
            except (HydraException, OmegaConfBaseException) as error:
                if debugging:
                    raise
                sys.exit(f"error: {explain(error, separated(sys.argv[1:])[1], config_name)}")
            except (UserError, OSError) as error:
                if debugging:
                    raise
                sys.exit(f"error: {error}")
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                if debugging:
                    raise
                sys.exit(f"error: {unreadable(error)}")
            except ValueError as error:
                if debugging or not str(error).startswith(HYDRAS):
                    raise
                sys.exit(f"error: {explain(error, separated(sys.argv[1:])[1], config_name)}")

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


HYDRAS = ("Config group override", "Invalid defaults list", "The --")
"""How Hydra begins what it says of aux_head=null, of a YAML file's `defaults` and of --resolve alone."""


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


def given(name: str, argv: list[str]) -> Path | None:
    """The path that the command line gives as `name=...`, before anything is composed."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return Path(values[-1]) if values and values[-1] not in ("", "null") else None
