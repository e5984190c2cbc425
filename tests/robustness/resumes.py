"""Runs that cannot be resumed: config.yaml damaged or asking for foreign code, checkpoints damaged or missing."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import yaml
from case import Case
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


def texts(rng: random.Random) -> Iterator[tuple[str, Damage, str]]:
    """A config.yaml that is no mapping, or more than values."""

    def write(content: bytes, folder: Path) -> None:
        (folder / CONFIG).write_bytes(content)

    def change(change_: Callable[[bytes], bytes], folder: Path) -> None:
        write(change_((folder / CONFIG).read_bytes()), folder)

    for title, content in {
        "empty": b"",
        "noise": rng.randbytes(500),
        "a list": b"- a\n- b\n",
        "unbalanced": b"a: [1, 2\n",
        "a Python object": b"seed: !!python/object/apply:os.system ['touch ran']\n",
    }.items():
        yield f"config.yaml {title}", partial(write, content), "run|config.yaml"
    share = rng.uniform(0.02, 0.8)
    cut = partial(change, lambda content: content[: int(share * len(content))])
    yield f"config.yaml cut at {share:.0%}", cut, "run|must be given|config.yaml|[a-z_]+"
    for text in (b"hydra: {run: {dir: ran}}", b"# @package _global_", b"output_dir: ${oc.env:HOME}", b"nowhere: 1"):
        added = partial(change, lambda content, text=text: text + b"\n" + content)
        yield f"config.yaml with {text.decode()}", added, "config.yaml"


def values(rng: random.Random) -> Iterator[tuple[str, Damage, str]]:
    """A config.yaml with parts of other programs, and values of a wrong type."""

    def put(key: str, value: object, folder: Path) -> None:
        tree = yaml.safe_load((folder / CONFIG).read_text())
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
        (folder / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False))

    for part in PARTS:
        for target in rng.sample(TARGETS[:-1], 2):
            yield f"{part} is {target}", partial(put, f"{part}._target_", target), part
    for key in ("trainer", "data", "head", "optimizer", "callbacks", "seed", "data.batch_size"):
        yield f"{key} is [1]", partial(put, key, [1]), key.split(".")[-1]
    call = {"_target_": "os.system", "command": "touch ran"}
    for key, value in (("callbacks.x", call), ("loss.x", [call])):
        yield f"{key} runs code", partial(put, key, value), "_target_"


def checkpoints(rng: random.Random) -> Iterator[tuple[str, Damage, str]]:
    """Checkpoints that are damaged or of another network, and a metrics.csv of another program."""

    def change(change_: Callable[[bytes], bytes], folder: Path) -> None:
        for path in CHECKPOINTS:
            (folder / path).write_bytes(change_((folder / path).read_bytes()))

    def flip(content: bytes) -> bytes:
        return content[:9000] + bytes([content[9000] ^ 255]) + content[9001:]

    def foreign(folder: Path) -> None:
        for path in CHECKPOINTS:
            torch.save({"state_dict": {"a": torch.zeros(3)}}, folder / path)

    def wider(folder: Path) -> None:
        text = (folder / CONFIG).read_text()
        (folder / CONFIG).write_text(text.replace("  - 4\n  - 4\n", "  - 6\n  - 4\n", 1))

    yield "checkpoints cut", partial(change, lambda content: content[:5000]), r"last\.ckpt"
    yield "checkpoints with a wrong byte", partial(change, flip), r"last\.ckpt"
    yield "checkpoints of another program", foreign, r"ckpt"
    yield "checkpoints of another network", wider, r"ckpt|checkpoint|shape|size"
    noise = rng.randbytes(300)
    yield "metrics.csv of noise", lambda folder: (folder / "run/metrics.csv").write_bytes(noise), r"metrics\.csv"
