"""Bad checkpoints and weight files: damaged, of other programs, or meant to run code."""

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case import EVALUATE, PREDICT, REPLAY, SHAPES, TINY, TRAIN, Case

READERS: dict[str, tuple[str, ...]] = {
    "evaluate": (*EVALUATE, "checkpoint=x.ckpt"),
    "predict": (*PREDICT, "checkpoint=x.ckpt"),
    "replay": (*REPLAY, "checkpoint=x.ckpt"),
    "init_from": (*TRAIN, "init_from=x.ckpt"),
    "weights": ("train.py", "backbone=resnet18", "head=fcn", *SHAPES, *TINY, "backbone.weights=x.ckpt"),
}


class Hostile:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def cases(rng: random.Random) -> Iterator[Case]:
    """All files for every program that reads checkpoints."""
    for title, write in files(rng).items():
        for reader, words in READERS.items():
            yield Case(f"{reader}: {title}", words, r"x\.ckpt|backbone", write)


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
