"""Records of a run for its report: the settings that differ from the defaults, the command, the curves."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from segframe.config.schema import CONFIG_DIR

PLACES = ("output_dir", "resume", "trust")
"""Settings that say where a run is, not what it does."""
Curves = dict[str, list[tuple[float, float]]]


def run_folder(checkpoint: Path) -> Path | None:
    """The run's folder that a checkpoint lies in; None for a file that was copied elsewhere."""
    folder = checkpoint.resolve().parents[1] if checkpoint.parent.name == "checkpoints" else None
    return folder if folder is not None and (folder / "config.yaml").is_file() else None


def changed_settings(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (setting, the run's value, the default) where a run's config differs from `python train.py` alone.

    "-": there is no such setting on this side.
    """
    default = default_config()
    for name in ("output_dir", "monitor_mode"):  # which other settings refer to, and every run resolves
        default[name] = config.get(name)
    before, after = flatten(OmegaConf.to_container(default, resolve=True)), flatten(config)
    changed = [name for name in after if after[name] != before.get(name)]
    parts = tuple(f"{name}." for name in changed if name in before)  # others have other settings
    changed += [name for name in before if name not in after and not name.startswith(parts)]
    return [(name, after.get(name, "-"), before.get(name, "-")) for name in changed if name not in PLACES]


def default_config() -> DictConfig:
    """The config of `python train.py`, composed also while Hydra runs a program with another one."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("train")
    finally:
        GlobalHydra.instance().hydra = running


def flatten(node: Any, path: str = "") -> dict[str, str]:
    """The values of nested mappings as text, by dotted name; a part's class has the part's name."""
    if isinstance(node, list) and any(isinstance(child, Mapping) for child in node):
        return {name: text for k, child in enumerate(node) for name, text in flatten(child, f"{path}[{k}]").items()}
    if not isinstance(node, Mapping):
        return {path: "null" if node is None else str(node).lower() if isinstance(node, bool) else str(node)}
    if not node and path:
        return {path: "{}"}
    found: dict[str, str] = {}
    for key, child in node.items():
        if key == "_target_":
            found[path] = str(child).rpartition(".")[2]
        elif key != "_partial_":
            found |= flatten(child, f"{path}.{key}" if path else str(key))
    return found


def read_command(folder: Path) -> str:
    """The command line that a run was started with; empty where its environment.json does not say."""
    try:
        words = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["command"]
        return " ".join(["python train.py", *words[1:]])
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
