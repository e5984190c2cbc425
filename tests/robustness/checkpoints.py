"""Bad checkpoints and weight files: damaged, of other programs, or meant to run code."""

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case import NETWORK, SHAPES, TINY, Case

READERS: dict[str, tuple[str, ...]] = {
    "evaluate": ("scripts/evaluate.py", "checkpoint=x.ckpt", "accelerator=cpu", "output_dir=out"),
    "predict": (
        *("scripts/predict.py", "checkpoint=x.ckpt", "input=photos/images/val", "output=out", "accelerator=cpu"),
    ),
    "replay": ("scripts/replay.py", "checkpoint=x.ckpt", "accelerator=cpu", "output_dir=out"),
    "init_from": ("train.py", *NETWORK, *SHAPES, *TINY, "init_from=x.ckpt"),
    "weights": ("train.py", "backbone=resnet18", "head=fcn", *SHAPES, *TINY, "backbone.weights=x.ckpt"),
}
TARGETS = ("torch.hub.load", "os.system", "torch.nn.Identity", "nowhere.X", "segframe.models.heads.UNet")
"""Names of no backbone; none may be imported or called."""


class Hostile:
    """An object that calls a function when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def cases(rng: random.Random) -> Iterator[Case]:
    """All files for every program that reads checkpoints, and segframe checkpoints with wrong content."""
    for title, write in files(rng).items():
        for reader, words in READERS.items():
            yield Case(f"{reader}: {title}", words, r"x\.ckpt|backbone", write)
    for title, change in contents().items():
        reader = rng.choice(("evaluate", "predict", "replay"))
        named = r"x\.ckpt|checkpoint|classes|palette"
        yield Case(f"{reader}: {title}", READERS[reader], named, partial(save_changed, change))


def files(rng: random.Random) -> dict[str, Callable[[Path], object]]:
    """Functions that write x.ckpt, by title."""

    def write(content: bytes, folder: Path) -> None:
        (folder / "x.ckpt").write_bytes(content)

    def save(value: Any, folder: Path) -> None:
        torch.save(value, folder / "x.ckpt")

    def damage(change: Callable[[bytes], bytes], folder: Path) -> None:
        write(change((folder / "run/checkpoints/last.ckpt").read_bytes()), folder)

    share = rng.uniform(0.05, 0.95)
    return {
        "empty": partial(write, b""),
        "noise": partial(write, rng.randbytes(5000)),
        "cut off": partial(damage, lambda content: content[: int(share * len(content))]),
        "overwritten with zeros": partial(damage, lambda content: content[:5000] + bytes(len(content) - 5000)),
        "a tensor": partial(save, torch.zeros(3)),
        "a state dict of numbers": partial(save, {"state_dict": {"a": 1}}),
        "os.system": partial(save, Hostile(os.system, "touch ran")),
        "eval in a state dict": partial(save, {"state_dict": {"a": Hostile(eval, "open('ran', 'w')")}}),
    }


def contents() -> dict[str, Callable[[dict[str, Any]], object]]:
    """Changes of a segframe checkpoint that make it invalid, by title."""

    def put(value: Any, *keys: str) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

        return change

    config = ("segframe", "config")
    changes: dict[str, Callable[[dict[str, Any]], object]] = {}
    for target in TARGETS:
        changes[f"the backbone {target}"] = put(target, *config, "backbone", "_target_")
    for keys in (("segframe",), config, (*config, "head"), (*config, "normalize"), ("segframe", "classes")):
        for value in (None, 5, "text", {"a": [1]}):
            changes[f"{keys[-1]}: {value!r}"] = put(value, *keys)
    return changes | {
        "channels that do not fit": put([8, 4, 8, 8, 8], *config, "backbone", "channels"),
        "an unknown argument": put(1, *config, "backbone", "nowhere"),
        "an additional class": lambda content: content["segframe"]["classes"].append("more"),
        "a missing tensor": lambda content: content["state_dict"].popitem(),
    }


def save_changed(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    """Save the run's checkpoint as x.ckpt with a change."""
    content = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    change(content)
    torch.save(content, folder / "x.ckpt")
