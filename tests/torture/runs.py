"""What a run leaves behind: whether it is whole, and whether two runs ended the same, bit for bit."""

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

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it leaves out

COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "segframe")
"""What of a checkpoint must agree; its loops count validations that were made twice, too."""
OWN = ("segframe.config",)
"""It names the folder and the number of workers."""
UNFINISHED = (".unfinished", ".tmp")


def damages(folder: Path) -> list[str]:
    """What a killed process may not have left: files by their own names that are half-written."""
    found = []
    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            checkpoint.verify_checksums(path)
        except UserError as error:
            found.append(str(error))
    for path in folder.glob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            found.append(f"{path.name} is half-written: {error}")
    if (folder / "config.yaml").exists():
        try:
            if "seed" not in yaml.safe_load((folder / "config.yaml").read_text()):
                found.append("config.yaml lacks its last settings")
        except (yaml.YAMLError, TypeError) as error:
            found.append(f"config.yaml is half-written: {error}")
    if (folder / "metrics.csv").exists():
        header, *rows = (folder / "metrics.csv").read_text().split("\n")
        # Only the last line may be cut off.
        found += [f"metrics.csv: {row!r}" for row in rows[:-1] if row.count(",") != header.count(",")]
    return found


def files(folder: Path) -> set[str]:
    """The run's files, without its lock and what is being written beside its place."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock" and not p.name.endswith(UNFINISHED))
    return {str(path.relative_to(folder)) for path in paths}


def differences(folder: Path, whole: dict[str, Any]) -> list[str]:
    """In what a run that was killed and went on differs from `digest` of the one that was not."""
    found = damages(folder)
    found += [f"{path.name} was left" for path in folder.rglob("*") if path.name.endswith(UNFINISHED)]
    here = digest(folder)
    for key in sorted(whole.keys() | here.keys()):
        if repr(whole.get(key)) != repr(here.get(key)):  # nan is nan
            found.append(f"{key[-100:]} is {short(here.get(key))}, without the kill {short(whole.get(key))}")
    return found[:4]


def digest(folder: Path) -> dict[str, Any]:
    """A run's weights, states and figures under names, to be compared."""
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
        if not tag.startswith("speed/"):
            found[f"curve {tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in events.Tags()["images"]:
        found[f"picture {tag}"] = [event.step for event in events.Images(tag)]
    return found


def flat(node: Any, name: str, folder: str) -> dict[str, Any]:
    """The leaves of a checkpoint, tensors as their checksums; paths as if all runs' folders had one name."""
    if name.endswith(OWN) or ".speed/" in name:
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
    """A value in at most three hundred letters."""
    text = str(value)
    return text if len(text) <= 300 else f"{text[:145]} ... {text[-145:]}"
