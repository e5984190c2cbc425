"""The program plan: measure data and machine, decide, and write an experiment file with the reasons."""

import re
import sys
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from omegaconf import DictConfig

from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.draft import Draft
from segframe.analysis.planning.experiment_file import experiment_text
from segframe.analysis.planning.facts import DataFacts, MachineFacts, StepFacts, ValidationFacts
from segframe.analysis.planning.planner import Planner
from segframe.analysis.planning.tables import classes_table, data_table, decisions_table, machine_table
from segframe.config import validate
from segframe.config.composition import chosen_options, train_command, typed_overrides
from segframe.config.overrides import key_of
from segframe.config.schema import CONFIG_DIR, PlanConfig, own_folders
from segframe.errors import UserError
from segframe.files import as_named, write_text
from segframe.visualization.tables import print_table

PROGRAM_SETTINGS = ("budget", "output", "overwrite", "max_images")
"""Settings of this program; all others are the training's."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Plan(NamedTuple):
    """A plan, its facts, and the file that it is in."""

    file: Path
    train_words: list[str]
    """Settings of the training that follows it: experiment=..., and --config-dir if the folder is another."""
    decisions: list[Decision]
    notes: list[str]
    data: DataFacts
    machine: MachineFacts
    step: StepFacts
    """Measured with the plan's crops and batch size."""
    validation: ValidationFacts

    def __str__(self) -> str:
        return "\n".join(f"{each.key}={each.value}  # {each.reason}" for each in self.decisions)


def write_plan(config: DictConfig) -> None:
    """Print the facts, the decisions and the command that trains."""
    start = perf_counter()
    plan = measure_plan(config)
    width = None if sys.stdout.isatty() else 120
    machine = machine_table(plan.machine, plan.step, plan.validation)
    for table in (data_table(plan.data), classes_table(plan.data), machine, decisions_table(plan.decisions)):
        print_table(table, highlight=False, width=width)
    for note in plan.notes:
        print(f"note: {note}")
    print(f"measured in {perf_counter() - start:.0f} s; written to {plan.file}; to train:")
    print(f"  {' '.join([train_command(), *plan.train_words])}")


def measure_plan(config: DictConfig) -> Plan:
    """Measure the data and steps on this machine, decide, and write the experiment file."""
    validate.check_keys(config, PlanConfig)
    seconds = parse_time("budget", config.budget)
    file = find_file(config)
    words = [word for word in typed_overrides() if key_of(word) not in PROGRAM_SETTINGS]
    draft = Draft(words, chosen_options())
    planner = Planner(draft, seconds, config.max_images)
    planner.decide()
    decisions = planner.draft.all()
    data = next(decision.value for decision in decisions if decision.key == "data")
    header = [
        f"Plan for data={data} in {config.budget} on {planner.machine.device}, written by scripts/plan.py.",
        f"  {' '.join(['python train.py', *train_words(file)])}",
        *planner.notes,
    ]
    write_text(file, experiment_text(header, decisions))
    return Plan(
        file=file,
        train_words=train_words(file),
        decisions=decisions,
        notes=planner.notes,
        data=planner.data,
        machine=planner.machine,
        step=planner.step,
        validation=planner.validation,
    )


def parse_time(name: str, text: str) -> float:
    """Return the seconds of a time such as 45m, 2h or 1h30m; UserError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise UserError(f"{name}={text}: it must be a time in s, m, h or d; type {name}=45m or {name}=2h")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def find_file(config: DictConfig) -> Path:
    """Return the experiment file to write; UserError where Hydra would not find it, or where there is one."""
    file = Path(config.output or own_configs() / f"experiment/plan_{chosen_options()['data']}.yaml")
    if file.parent.name != "experiment" or file.suffix != ".yaml":
        raise UserError(
            f"output={file}: an experiment is a file <folder>/experiment/<name>.yaml; type "
            f"output=configs/experiment/{file.stem}.yaml"
        )
    file = as_named(file.absolute())
    if file.exists() and not config.overwrite:
        raise UserError(f"output={file}: there is such a file; type overwrite=true, or output=... for another one")
    return file


def own_configs() -> Path:
    return next(iter(own_folders()), Path("configs"))


def train_words(file: Path) -> list[str]:
    """Return what chooses an experiment file on the command line: ./configs is found without --config-dir."""
    folder = file.absolute().parent.parent
    is_found = folder in (Path("configs").absolute(), CONFIG_DIR)
    return [*([] if is_found else [f"--config-dir={as_named(folder)}"]), f"experiment={file.stem}"]
