"""Records of a run for its report: the command, the curves."""

import csv
import json
import shlex
from pathlib import Path

Curves = dict[str, list[tuple[float, float]]]


def run_folder(checkpoint: Path) -> Path | None:
    """The run's folder that a checkpoint lies in; None for a file that was copied elsewhere."""
    folder = checkpoint.resolve().parents[1] if checkpoint.parent.name == "checkpoints" else None
    return folder if folder is not None and (folder / "config.yaml").is_file() else None


def read_command(folder: Path) -> str:
    """Return the command line of a run from its environment.json; an empty string if that is missing or invalid."""
    try:
        words = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["command"]
        return shlex.join(["python", "train.py", *words[1:]])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def read_curves(folder: Path) -> Curves:
    """The columns of a run's metrics.csv as points (step, value); empty without that file."""
    curves: Curves = {}
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name and name != "step" and value:
                        curves.setdefault(name, []).append((float(row["step"]), float(value)))
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError):
        return curves  # a killed run may leave the last line incomplete
    return curves
