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

from segframe.cli.argv import PATHS, given, quote_path, split_flags, take_debug
from segframe.cli.error_messages import explain, sentence, unreadable
from segframe.cli.streams import make_lasting
from segframe.config import schema as schema
from segframe.errors import UserError
from segframe.preemption import INTERRUPTED

Job = Callable[[DictConfig], Any]


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
                sys.exit(f"error: {explain(error, split_flags(sys.argv[1:])[1], config_name)}")
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
                sys.exit(f"error: {explain(error, split_flags(sys.argv[1:])[1], config_name)}")

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


class Failure(float):
    """A sweep job's result where it failed: not a number, with the reason."""

    reason: str

    def __new__(cls, reason: str) -> "Failure":
        """NaN that remembers `reason`."""
        failure = super().__new__(cls, "nan")
        failure.reason = reason
        return failure
