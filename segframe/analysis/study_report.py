"""The results of a hyperparameter search: table, trials.csv, pictures of history and importances."""

import warnings
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from segframe.files import as_named, write_csv
from segframe.visualization.charts import bar_chart, history_chart
from segframe.visualization.overlays import save_png
from segframe.visualization.tables import empty_table, print_table

MIN_TRIALS = 5
"""Complete trials, from which on importances are worth showing."""


def describe_trial(trial: FrozenTrial, monitor: str) -> str:
    """One line about how a trial ended: its value, or why it failed or was pruned."""
    value = "" if trial.value is None else f"{monitor} {trial.value:.4f}"
    if trial.state is TrialState.FAIL:
        return f"failed: {trial.user_attrs.get('error', 'no reason is known')}"
    if trial.state is TrialState.PRUNED:
        pruned = f"pruned after validation {max(trial.intermediate_values, default=0)}"
        return f"{pruned}: {value}" if value else pruned
    return value if trial.state is TrialState.COMPLETE else trial.state.name.lower()


def report_study(study: optuna.Study, folder: Path, monitor: str) -> None:
    """Print the table of the trials, the best first, and write it and the pictures into the study's folder."""
    trials = study.get_trials(deepcopy=False)
    trials = [trial for trial in trials if trial.state is not TrialState.WAITING]
    sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    trials.sort(key=lambda trial: (order.index(trial.state), sign * (trial.value or 0), trial.number))
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    table = empty_table(("trial", *keys, monitor, "validations", "time", ""))
    for trial in trials:
        minutes, seconds = divmod(round(duration(trial)), 60)
        state = trial.state.name.lower()
        note = {"complete": "", "fail": trial.user_attrs.get("error", "failed")}.get(state, state)
        value = "" if trial.value is None else f"{trial.value:.4f}"
        settings = [shown(trial.params.get(key, "")) for key in keys]
        table.add_row(
            str(trial.number),
            *settings,
            value,
            str(len(trial.intermediate_values)),
            f"{minutes}:{seconds:02}",
            note,
            style="red" if trial.state is TrialState.FAIL else "",
        )
    print_table(table)
    write_trials(folder / "trials.csv", trials, keys, monitor, folder)
    files = [folder / "trials.csv"]
    points = [
        (t.number, t.value, t.state is TrialState.COMPLETE) for t in trials if t.value is not None and isfinite(t.value)
    ]
    if points:
        picture = history_chart(sorted(points), monitor, maximize=sign == -1)
        save_png(folder / "history.png", picture)
        files.append(folder / "history.png")
    if shares := importances(study):
        save_png(folder / "importances.png", bar_chart(shares, f"share of the variance among good values of {monitor}"))
        files.append(folder / "importances.png")
    print(f"also in {', '.join(str(as_named(path)) for path in files)}")


def shown(value: Any) -> str:
    """A drawn setting in the table; trials.csv has all digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(trial: FrozenTrial) -> float:
    """Seconds from a trial's start to its end, interruptions included."""
    return trial.duration.total_seconds() if trial.duration else 0.0


def write_trials(path: Path, trials: list[FrozenTrial], keys: list[str], monitor: str, folder: Path) -> None:
    """Write one row per trial: its settings, value, state, validations, seconds, folder, error."""
    rows = []
    for trial in trials:
        settings = [trial.params.get(key, "") for key in keys]
        value = "" if trial.value is None else trial.value
        state, seconds = trial.state.name.lower(), round(duration(trial), 1)
        place, error = as_named(folder / str(trial.number)), trial.user_attrs.get("error", "")
        validations = len(trial.intermediate_values)
        rows.append([trial.number, *settings, value, state, validations, seconds, place, error])
    write_csv(path, ["trial", *keys, monitor, "state", "validations", "seconds", "folder", "error"], rows)


def importances(study: optuna.Study) -> dict[str, float]:
    """The settings' shares of the variance, largest first (PED-ANOVA, Watanabe et al., 2023); empty for few trials."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_TRIALS or np.ptp([trial.value or 0 for trial in complete]) == 0:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; and settings of one value
        return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
