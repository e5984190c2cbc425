"""The programs: each composes its config from configs/ and the command line, then calls one function."""

import argparse
import gc
import importlib
import logging
import os
import string
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segframe import preemption
from segframe.cli import launch, process_group
from segframe.cli.argv import (
    check_data_arguments,
    check_values,
    checkpoint_options,
    compare_arguments,
    expand_home,
    quote_paths,
    split_flags,
    take_config_dir,
    take_debug,
)
from segframe.cli.error_messages import explain, explain_missing, first_line, yaml_error
from segframe.cli.launchers import check_launcher
from segframe.cli.resume_argv import resume_arguments
from segframe.cli.search_argv import search_arguments
from segframe.cli.sweep import finish_sweep, read_row, unfinished
from segframe.config import schema
from segframe.config.composition import compose, output_folder, typed_overrides
from segframe.config.overrides import key_of
from segframe.errors import TO_PREDICT, TO_TRAIN, UserError, raised_in, shorten, translate_errors


class Program(NamedTuple):
    """A program: `python train.py`, a script, or `segframe <name>`."""

    function: str
    """Dotted name of a function of the config; imported only to run it, so that --help needs no torch."""
    config: str
    """The name of its root config, <config>.yaml."""
    memory_advice: str = TO_TRAIN
    """Advice for out-of-memory errors."""
    config_dir: Path = schema.CONFIG_DIR
    prepare: Callable[[list[str]], list[str]] = list
    """Changes the command line before a config is composed."""
    takes_devices: bool = False
    """Whether several processes may share its work."""


PROGRAMS = {
    "train": Program("segframe.training.run.train", "train", prepare=resume_arguments, takes_devices=True),
    "evaluate": Program(
        "segframe.inference.evaluate.evaluate_checkpoint",
        "evaluate",
        TO_PREDICT,
        prepare=checkpoint_options,
        takes_devices=True,
    ),
    "predict": Program(
        "segframe.inference.predict.predict_images",
        "predict",
        TO_PREDICT,
        prepare=checkpoint_options,
        takes_devices=True,
    ),
    "export": Program("segframe.inference.export.export_checkpoint", "export", TO_PREDICT, prepare=checkpoint_options),
    "check-data": Program("segframe.data.inspection.check.check_data", "check_data", prepare=check_data_arguments),
    "summary": Program("segframe.analysis.summary.summarize_model", "summary"),
    "replay": Program("segframe.analysis.replay_divergence.replay_step", "replay", "use accelerator=cpu"),
    "report": Program("segframe.analysis.report.report_checkpoint", "report", TO_PREDICT, prepare=checkpoint_options),
    "compare": Program(
        "segframe.analysis.compare.compare_checkpoints", "compare", TO_PREDICT, prepare=compare_arguments
    ),
    "search": Program("segframe.cli.search.search", "search", prepare=search_arguments),
    "plan": Program("segframe.analysis.planning.plan.write_plan", "plan"),
}

HYDRA_VALUE_ERRORS = ("Config group override", "Invalid defaults list", "The --", "Only one of --")
"""Beginnings of the ValueErrors by which Hydra refuses a command line."""


def main() -> None:
    """The console command `segframe <program> key=value ...`."""
    names = ", ".join(PROGRAMS)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(
            f"usage: segframe <program> key=value ...\nprograms: {names}\nsegframe <program> --help shows its settings"
        )
        return
    name = sys.argv.pop(1).replace("_", "-")
    if name not in PROGRAMS:
        sys.exit(f"error: segframe {name}: unknown program; choose one of {names}")
    run(name)


def run(name: str) -> None:
    """Run one of PROGRAMS with the words in sys.argv, as one of several processes if it was started so."""
    program = PROGRAMS[name]
    if name in ("train", "search"):
        preemption.listen()
    preemption.end_with_parent()
    if program.takes_devices:
        process_group.use_slurm_variables()
    if not (program.takes_devices and process_group.is_distributed()):
        run_program(program)
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no stack traces of lost connections
    with process_group.joined():
        if {"-m", "--multirun"} & set(sys.argv):
            sys.exit("error: -m: a sweep's jobs start processes themselves; type trainer.devices=... without torchrun")
        if os.environ["RANK"] == "0":
            run_program(program)
        else:
            run_job(program, "debug=true" in sys.argv, process_group.receive_config())


def run_program(program: Program) -> None:
    """Compose a program's config and run it; errors that a user can cause end it with one line."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints a traceback and exits itself
    # From Python 3.14 on argparse would refuse Hydra 1.3's --shell-completion, whose help is no str.
    setattr(argparse.ArgumentParser, "_check_help", lambda parser, action: None)  # noqa: B010
    debug = "debug=true" in sys.argv
    words = sys.argv[1:]
    try:
        sys.argv[1:] = [expand_home(word) for word in sys.argv[1:]]
        take_debug(sys.argv)
        logging.raiseExceptions = debug
        schema.register(take_config_dir(sys.argv))  # a resumed run may have parts that the user's own configs name
        sys.argv[1:] = program.prepare(sys.argv[1:])
        flags, words = split_flags(sys.argv[1:], program.config)
        check_values(words)
        sweeps = bool({"-m", "--multirun"} & set(flags))
        check_launcher(words, sweeps)
        sys.argv[1:] = [*quote_paths(words, sweeps), *flags]  # Hydra refuses settings on both sides of a flag
        if {"-h", "--help"} & set(flags):
            print(help_text(program, words), flush=True)
        else:
            main = hydra.main(version_base="1.3", config_path=str(program.config_dir), config_name=program.config)
            main(partial(run_job, program, debug))()
            if finish_sweep():
                sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(preemption.INTERRUPTED)
    except BrokenPipeError:
        end_without_reader()
    except Exception as error:
        message = error_message(error, words, program)
        if finish_sweep() and message is None:
            message = f"the sweep's launcher failed: {first_line(error)}; debug=true shows where"
        if debug or message is None:
            raise
        sys.exit(f"error: {shorten(message)}")


def run_job(program: Program, debug: bool, config: DictConfig) -> Any:
    """Run a program's function; Hydra would not show the traceback of a sweep's job."""
    sweeps = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        if sweeps and not unfinished:
            return run_launched_job(program, config)
        with translate_errors(program.memory_advice):
            if program.takes_devices and process_group.is_distributed() and os.environ["RANK"] == "0":
                process_group.send_config(config)
            return call(program, config)
    except Exception as error:
        remove_empty_run_dir()
        if process_group.is_distributed() and process_group.is_lost_connection(error):
            sys.exit("error: another process of this job ended without a message; was it killed for lack of memory?")
        expected = isinstance(error, UserError | OmegaConfBaseException | OSError) and not debug
        if isinstance(error, launch.WorkerError):  # its own traceback, not that of the process which waited for it
            print(error.__cause__, file=sys.stderr)
            if not sweeps:
                sys.exit(1)
        elif sweeps and not expected:
            traceback.print_exc()
        if sweeps or not expected:
            raise
        if isinstance(error, BrokenPipeError):
            end_without_reader()  # Hydra would print a line
        message = explain_missing(config, program.config) if isinstance(error, MissingMandatoryValue) else None
        sys.exit(f"error: {shorten(message or first_line(error))}")  # Hydra would print a line before it


def run_launched_job(program: Program, config: DictConfig) -> Any:
    """Run a job of a sweep in a process started by a Hydra launcher; resume it if it was requeued."""
    requeue = preemption.listen_in_job()
    folder = output_folder()
    if "resume" in config and read_row(folder).starts > 1:
        config.resume = str(folder)
    try:
        with translate_errors(program.memory_advice):
            return call(program, config)
    except SystemExit as end:
        if requeue is None or end.code != preemption.EXIT_CODE:
            os._exit(int(end.code or 0))  # ends this process of a sweep, which would start the next job
        requeue()  # exits, unless Slurm has cancelled the job
        raise UserError("ended by the scheduler; the same command with resume=auto continues it") from None
    finally:
        if requeue is not None:
            preemption.stop_listening()


def end_without_reader() -> NoReturn:
    """Exit without a traceback on a broken pipe, as with `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def call(program: Program, config: DictConfig) -> Any:
    """Call a program's function, in several processes if its settings ask for them."""
    devices = launch.count_devices(config) if program.takes_devices else 1
    if devices > 1:
        return launch.launch(program.function, program.memory_advice, config, devices)
    return load(program.function)(config)


def load(function: str) -> Any:
    """Import a function by its dotted name."""
    module, _, name = function.rpartition(".")
    gc.disable()  # it would walk through torch's many new objects again and again, for a second in all
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        gc.enable()


def error_message(error: Exception, words: list[str], program: Program) -> str | None:
    """The line that explains an error to the user, full disks and missing permissions included; None if it is a bug."""
    composing = isinstance(error, HydraException | OmegaConfBaseException) or "omegaconf" in raised_in(error)
    if composing or str(error).startswith(HYDRA_VALUE_ERRORS):
        return explain(error, words, program.config, program.config_dir)
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return yaml_error(error)
    if isinstance(error, UserError | OSError):
        return first_line(error)
    return None


def remove_empty_run_dir() -> None:
    """Remove the folder that Hydra made for a run which failed before writing anything, unless the user named it."""
    folder = output_folder()
    named = "output_dir" in map(key_of, typed_overrides())
    if not named and folder != Path.cwd() and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def help_text(program: Program, words: list[str]) -> str:
    """The help of a program: the template in configs/script/, filled in.

    Hydra's own --help lists every config group twice more, which takes longer than all else together.
    """
    config = compose(program.config, words, program.config_dir, return_hydra_config=True)
    template = string.Template(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    return template.substitute(CONFIG=OmegaConf.to_yaml(config))
