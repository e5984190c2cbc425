"""Runs that cannot be resumed: config.yaml damaged or asking for foreign code, checkpoints damaged or missing."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import yaml
from case import Case, put
from checkpoints import TARGETS

CONFIG = "run/config.yaml"
CHECKPOINTS = ("run/checkpoints/last.ckpt", "run/checkpoints/best.ckpt")
COMMANDS = (
    ("train.py", "resume=run", "trainer.max_steps=6"),
    ("train.py", "resume=auto", "output_dir=run", "trainer.max_steps=6"),
)
PARTS = ("backbone", "loss", "optimizer", "data.dataset", "callbacks.best_checkpoint", "logger.csv")
Damage = Callable[[Path], object]


def cases(rng: random.Random) -> Iterator[Case]:
    """All damages, each with one of the commands that resume."""
    for title, damage, named in (*texts(rng), *values(rng), *checkpoints(rng)):
        words = rng.choice(COMMANDS)
        yield Case(f"{words[1]}: {title}", words, named, damage)


def change(paths: tuple[str, ...], new: Callable[[bytes], bytes], folder: Path) -> None:
    """Replace the content of files by one computed from it."""
    for path in paths:
        (folder / path).write_bytes(new((folder / path).read_bytes()))


def texts(rng: random.Random) -> Iterator[tuple[str, Damage, str]]:
    """A config.yaml that is no mapping, or more than values."""

    call = b"seed: !!python/object/apply:os.system ['touch ran']\n"
    for title, content in (("empty", b""), ("of noise", rng.randbytes(500)), ("a Python object", call)):
        yield f"config.yaml {title}", partial(change, (CONFIG,), lambda _, new=content: new), "run|config.yaml"
    share = rng.uniform(0.02, 0.8)
    cut = partial(change, (CONFIG,), lambda content: content[: int(share * len(content))])
    yield f"config.yaml cut at {share:.0%}", cut, "run|must be given|config.yaml|[a-z_]+"
    for text in (b"hydra: {run: {dir: ran}}", b"# @package _global_", b"output_dir: ${oc.env:HOME}", b"nowhere: 1"):
        added = partial(change, (CONFIG,), lambda content, text=text: text + b"\n" + content)
        yield f"config.yaml with {text.decode()}", added, "config.yaml"


def values(rng: random.Random) -> Iterator[tuple[str, Damage, str]]:
    """A config.yaml with parts of other programs, and values of a wrong type."""

    def change_value(key: str, value: object, folder: Path) -> None:
        tree = yaml.safe_load((folder / CONFIG).read_text())
        put(tree, key, value)
        (folder / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False))

    for part in PARTS:
        for target in rng.sample(TARGETS[:-1], 2):
            yield f"{part} is {target}", partial(change_value, f"{part}._target_", target), part
    for key in ("trainer", "data", "head", "optimizer", "callbacks", "seed", "data.batch_size"):
        yield f"{key} is [1]", partial(change_value, key, [1]), key.split(".")[-1]
    call = {"_target_": "os.system", "command": "touch ran"}
    for key, value in (("callbacks.x", call), ("loss.x", [call])):
        yield f"{key} runs code", partial(change_value, key, value), "_target_"


def checkpoints(rng: random.Random) -> Iterator[tuple[str, Damage, str]]:
    """Checkpoints that are damaged or of another network, and a metrics.csv of another program."""

    def flip(content: bytes) -> bytes:
        return content[:9000] + bytes([content[9000] ^ 255]) + content[9001:]

    def foreign(folder: Path) -> None:
        for path in CHECKPOINTS:
            torch.save({"state_dict": {"a": torch.zeros(3)}}, folder / path)

    def widen(config: bytes) -> bytes:
        return config.replace(b"  - 4\n  - 4\n", b"  - 6\n  - 4\n", 1)

    yield "checkpoints cut", partial(change, CHECKPOINTS, lambda content: content[:5000]), r"last\.ckpt"
    yield "checkpoints with a wrong byte", partial(change, CHECKPOINTS, flip), r"last\.ckpt"
    yield "checkpoints of another program", foreign, r"ckpt"
    yield "checkpoints of another network", partial(change, (CONFIG,), widen), r"ckpt|checkpoint|shape|size"
    noise = rng.randbytes(300)
    yield "metrics.csv of noise", partial(change, ("run/metrics.csv",), lambda _: noise), r"metrics\.csv"
