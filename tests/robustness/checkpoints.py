"""Bad checkpoints and weight files: damaged, of other programs, or meant to run code."""

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case import EVALUATE, PREDICT, REPLAY, SHAPES, TINY, TRAIN, Case, put

READERS: dict[str, tuple[str, ...]] = {
    "evaluate": (*EVALUATE, "checkpoint=x.ckpt"),
    "predict": (*PREDICT, "checkpoint=x.ckpt"),
    "replay": (*REPLAY, "checkpoint=x.ckpt"),
    "init_from": (*TRAIN, "init_from=x.ckpt"),
    "weights": ("train.py", "backbone=resnet18", "head=fcn", *SHAPES, *TINY, "backbone.weights=x.ckpt"),
}
TARGETS = ("os.system", "torch.nn.Identity", "nowhere.X", "segframe.models.heads.UNet")
"""Names of no backbone; none may be imported or called."""


class Hostile:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


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

    def write(change: Callable[[bytes], bytes], folder: Path) -> None:
        (folder / "x.ckpt").write_bytes(change((folder / "run/checkpoints/last.ckpt").read_bytes()))

    def save(value: Any, folder: Path) -> None:
        torch.save(value, folder / "x.ckpt")

    share, noise = rng.uniform(0.05, 0.95), rng.randbytes(5000)
    return {
        "noise": partial(write, lambda content: noise),
        "cut off": partial(write, lambda content: content[: int(share * len(content))]),
        "overwritten with zeros": partial(write, lambda content: content[:5000] + bytes(len(content) - 5000)),
        "a state dict of numbers": partial(save, {"state_dict": {"a": 1}}),
        "code in a state dict": partial(save, {"state_dict": {"a": Hostile()}}),
    }


def contents() -> dict[str, Callable[[dict[str, Any]], object]]:
    """Changes of a segframe checkpoint that make it invalid, by title."""
    config = "segframe.config"
    values = [(f"{config}.backbone._target_", target) for target in TARGETS]
    values += [(f"{config}.backbone.channels", [8, 4, 8, 8, 8])]
    for key in ("segframe", config, f"{config}.head", f"{config}.normalize", "segframe.classes"):
        values += [(key, value) for value in (None, "text", {"a": [1]})]
    return {f"{key}: {value!r}": partial(put, key=key, value=value) for key, value in values} | {
        "an additional class": lambda content: content["segframe"]["classes"].append("more"),
        "a missing tensor": lambda content: content["state_dict"].popitem(),
    }


def save_changed(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    """Save the run's checkpoint as x.ckpt with a change."""
    content = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    change(content)
    torch.save(content, folder / "x.ckpt")
