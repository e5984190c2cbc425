"""Comparison of run folders: whether files are complete, and whether two runs ended the same, bit for bit."""

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segframe.errors import UserError
from segframe.models.weights import checkpoint

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports what it leaves out

COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "segframe")
"""Entries of a checkpoint that must agree; `loops` also counts repeated validations."""
IGNORED = ("segframe.config", ".current_score")
"""The first holds the folder and the number of workers; the second is stored by Lightning and never read."""
UNFINISHED = (".unfinished", ".tmp")


def find_damage(folder: Path) -> list[str]:
    """Half-written files under their final names, which a killed process must not leave."""
    found = []
    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            checkpoint.verify_checksums(path)
        except UserError as error:
            found.append(str(error))
    for path in (*folder.glob("*.json"), *folder.glob("config.yaml")):
        try:
            content = yaml.safe_load(path.read_text())  # JSON is YAML
            found += [f"{path.name} is cut off"] * ("seed" not in content and path.suffix == ".yaml")
        except (yaml.YAMLError, TypeError) as error:
            found.append(f"{path.name} is cut off: {error}")
    if (folder / "metrics.csv").exists():
        header, *rows = (folder / "metrics.csv").read_text().split("\n")
        # Only the last line may be cut off.
        found += [f"metrics.csv: {row!r}" for row in rows[:-1] if row.count(",") != header.count(",")]
    return found


def find_losses(folder: Path, before: set[str]) -> list[str]:
    """What a kill has destroyed: `files` that were there before, and half-written ones."""
    return [f"{lost} is lost" for lost in sorted(before - files(folder))] + find_damage(folder)


def files(folder: Path) -> set[str]:
    """The run's files without its lock and temporary files."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock" and not p.name.endswith(UNFINISHED))
    return {str(path.relative_to(folder)) for path in paths}


def differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    """How a killed and resumed run differs from the `digest` of an uninterrupted one."""
    found = find_damage(folder)
    found += [f"{path.name} was left" for path in folder.rglob("*") if path.name.endswith(UNFINISHED)]
    here = digest(folder)
    for key in sorted(expected.keys() | here.keys()):
        if repr(expected.get(key)) != repr(here.get(key)):  # repr: NaN equals NaN
            found.append(f"{key[-100:]} is {short(here.get(key))}, uninterrupted {short(expected.get(key))}")
    return found[:4]


def digest(folder: Path) -> dict[str, Any]:
    """A run's weights, optimizer states, metrics and curves by name, for comparison."""
    found: dict[str, Any] = {"result": json.loads((folder / "result.json").read_text())}
    for path in sorted(folder.glob("checkpoints/*.ckpt")):
        content = checkpoint.load_file(path)
        plain = {key: content[key] for key in COMPARED}
        found |= flat(plain, path.stem, str(folder.resolve()))
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    for row in rows:
        for name, value in zip(header, row, strict=True):
            if not name.startswith("speed/"):
                found[f"metrics.csv {row[0]} {name}"] = value
    found["metrics.csv steps"] = [row[0] for row in rows]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    for tag in events.Tags()["scalars"]:
        if not tag.startswith("watch/speed/"):
            found[f"curve {tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in events.Tags()["images"]:
        found[f"picture {tag}"] = [event.step for event in events.Images(tag)]
    return found


def flat(node: Any, name: str, folder: str) -> dict[str, Any]:
    """The leaves of a checkpoint by dotted name: tensors as checksums, the run's folder in paths as RUN."""
    if name.endswith(IGNORED) or ".speed/" in name:
        return {}
    if isinstance(node, torch.Tensor):
        content = node.contiguous().reshape(-1).view(torch.uint8).numpy()
        return {name: f"{node.dtype} {tuple(node.shape)} {sha256(content).hexdigest()}"}
    if isinstance(node, dict):
        items = [(str(key).replace(folder, "RUN"), child) for key, child in node.items()]
    elif isinstance(node, list | tuple):
        items = list(enumerate(node))
    else:
        return {name: node.replace(folder, "RUN") if isinstance(node, str) else node}
    return {key: value for part, child in items for key, value in flat(child, f"{name}.{part}", folder).items()}


def short(value: Any) -> str:
    """A value as at most 300 characters."""
    text = str(value)
    return text if len(text) <= 300 else f"{text[:145]} ... {text[-145:]}"
