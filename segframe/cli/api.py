"""Training and evaluation from Python, with the settings of the command line."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segframe import preemption
from segframe.cli import launch, process_group
from segframe.cli.argv import check_values, expand_home, quote_paths, split_flags, take_config_dir, take_debug
from segframe.cli.error_messages import explain_missing, first_line
from segframe.cli.main import PROGRAMS, Program, call, error_message, remove_empty_run_dir
from segframe.config import schema
from segframe.config.composition import search_path
from segframe.errors import UserError, translate_errors

if TYPE_CHECKING:  # they import torch
    from segframe.analysis.comparison import Comparison
    from segframe.analysis.planning.plan import Plan
    from segframe.data.inspection.check import DataReport
    from segframe.inference.evaluation_result import EvaluationResult
    from segframe.models.segmenter import Segmenter
    from segframe.training.run import TrainingResult


def train(*settings: str) -> "TrainingResult":
    """Train as `python train.py` does with these settings: train("model=fcn8s", "data=voc", "trainer.max_steps=100").

    UserError for what the command line would refuse. Ctrl-C raises KeyboardInterrupt once a checkpoint is written, from
    which train("resume=<folder>") continues.
    """
    result: TrainingResult = run("train", "segframe.training.run.run_training", settings)
    return result


def network(*settings: str, num_classes: int) -> "Segmenter":
    """Return a network for a custom training loop: network("model=deeplabv3plus", num_classes=21).

    `settings`: those of the command line for backbone, head and normalisation, and `init_from`. The network is in
    training mode; of images (N, C, H, W) in 0 ... 255, uint8 or float, it returns logits (N, num_classes, H, W).
    UserError for what the command line would refuse.
    """
    words = (*settings, f"num_classes={num_classes}", "hydra.run.dir=.")  # no folder of its own
    result: Segmenter = run("summary", "segframe.models.build.build_untrained", words)
    return result


def evaluate(checkpoint: str | Path, *settings: str) -> "EvaluationResult":
    """Evaluate a run's folder or a checkpoint as scripts/evaluate.py does: evaluate("runs/first", "split=test").

    Also writes metrics.json. UserError for what the command line would refuse.
    """
    words = (f"checkpoint={checkpoint}", *settings)
    result: EvaluationResult = run("evaluate", "segframe.inference.evaluate.measure_checkpoint", words)
    return result


def check_data(*settings: str) -> "DataReport":
    """Check a dataset as scripts/check_data.py does: check_data("data.root=photos").

    Also prints the report and writes check_data.json. UserError for what the command line would refuse.
    """
    result: DataReport = run("check-data", "segframe.data.inspection.check.report_data", settings)
    return result


def compare(*settings: str | Path) -> "Comparison":
    """Compare runs as scripts/compare.py does: compare("runs/a", "runs/b", "split=test").

    Also writes the comparison's files. UserError for what the command line would refuse.
    """
    words = tuple(map(str, settings))
    result: Comparison = run("compare", "segframe.analysis.compare.measure_comparison", words)
    return result


def plan(*settings: str) -> "Plan":
    """Plan a training as scripts/plan.py does: plan("data=camvid", "data.root=photos", "budget=2h").

    Also writes the experiment file: train("experiment=plan_camvid") follows it. UserError for what the command line
    would refuse.
    """
    result: Plan = run("plan", "segframe.analysis.planning.plan.measure_plan", settings)
    return result


def run(name: str, function: str, settings: tuple[str, ...]) -> Any:
    """Return the result of a function of the config that a program's settings compose."""
    program = PROGRAMS[name]._replace(function=function)
    if process_group.is_distributed():
        raise UserError(f"segframe.{name}: this is one of several processes (RANK is set); type segframe {name} ...")
    for setting in settings:
        if not isinstance(setting, str | Path):
            kind = type(setting).__name__
            raise UserError(f"segframe.{name}: each setting is a text, not a {kind}; type segframe.{name}(*settings)")
    words = [expand_home(str(setting)) for setting in settings]
    for word in words:
        if word.startswith("-"):
            raise UserError(f"{word}: settings are key=value; flags, such as those of a sweep, are the command line's")
    failed: list[tuple[Exception, str | None]] = []
    results: list[Any] = []
    with restored_process_state():
        try:
            run_in_hydra(program, words, lambda config: results.append(run_job(program, config, failed)))
            if failed:
                raise failed[0][0]
        except SystemExit as end:
            if end.code == preemption.INTERRUPTED or isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise UserError(f"segframe.{name}: ended by a signal; resume=<folder> continues the run") from end
        except UserError:
            raise
        except Exception as error:
            message = failed[0][1] if failed else error_message(error, words, program)
            if message is None:
                raise
            raise UserError(message) from error
    return results[0]


def run_in_hydra(program: Program, words: list[str], job: Callable[[DictConfig], None]) -> None:
    """Compose a config and run a job of it as hydra.main does, without logs, and with words instead of sys.argv."""
    take_debug(words)
    schema.register(take_config_dir(words))
    flags, words = split_flags(program.prepare(words), program.config)
    places = dict(flag.lstrip("-").split("=", 1) for flag in flags)
    check_values(words)
    words = [*quote_paths(words), *search_path()]
    folder, config = places.get("config-path", str(program.config_dir)), places.get("config-name", program.config)
    with hydra.initialize_config_dir(folder, job_name=program.config, version_base="1.3"):
        composer = GlobalHydra.instance().hydra
        assert composer is not None
        composer.run(Path(config).stem, job, words, with_log_configuration=False)


def run_job(program: Program, config: DictConfig, failed: list[tuple[Exception, str | None]]) -> Any:
    """Run a program's function; an error goes into `failed` with its message, since Hydra would print it."""
    try:
        with translate_errors(program.memory_advice):
            return call(program, config)
    except Exception as error:
        remove_empty_run_dir()
        message = first_line(error) if isinstance(error, OmegaConfBaseException | OSError) else None
        if isinstance(error, MissingMandatoryValue):
            message = explain_missing(config, program.config)
        failed.append((error, message))


@contextmanager
def restored_process_state() -> Iterator[None]:
    """Undo at the end what programs change in their process: signal handlers, loggers, warnings, variables, torch."""
    import torch

    variables, owned = dict(os.environ), preemption.owns_process
    preemption.owns_process = False
    lightning = logging.getLogger("pytorch_lightning")
    level, hook = lightning.level, threading.excepthook
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    outer = GlobalHydra.instance().hydra  # of a program that uses Hydra itself
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(launch.restored_handlers())
        try:
            yield
        finally:
            preemption.owns_process = owned
            GlobalHydra.instance().hydra = outer
            lightning.setLevel(level)
            threading.excepthook = hook
            torch.use_deterministic_algorithms(deterministic)
            torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = cudnn
            torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
            os.environ.clear()
            os.environ.update(variables)
