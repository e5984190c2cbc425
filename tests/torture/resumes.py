"""Run folders that cannot be continued: config.yaml broken or hostile, checkpoints damaged, gone or not theirs."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml
from case import Case
from strangers import RAN, TARGETS

CONFIG = "run/config.yaml"
WORDS = ("train.py", "resume=run", "trainer.max_steps=6")
AUTO = ("train.py", "resume=auto", "output_dir=run", "trainer.max_steps=6")
PARTS = (
    "backbone",
    "head",
    "loss",
    "optimizer",
    "scheduler",
    "data.dataset",
    "callbacks.best_checkpoint",
    "logger.csv",
)


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them, resumed by name and by `auto`."""
    for title, damage, named in (*texts(rng), *nodes(rng), *folders(rng)):
        for words in (WORDS, AUTO):
            yield Case(f"{words[1]}: {title}", words, named, damage)


def texts(rng: random.Random) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """What is no YAML, or more than YAML."""

    def write(content: bytes, folder: Path) -> None:
        (folder / CONFIG).write_bytes(content)

    def cut(share: float, folder: Path) -> None:
        content = (folder / CONFIG).read_bytes()
        write(content[: int(share * len(content))], folder)

    def add(text: str, folder: Path) -> None:
        write(text.encode() + (folder / CONFIG).read_bytes(), folder)

    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
    for title, content in {
        "empty": b"",
        "noise": rng.randbytes(500),
        "zeros": bytes(3000),
        "a list": b"- a\n- b\n",
        "a word": b"hello\n",
        "a number": b"5\n",
        "unbalanced": b"a: [1, 2\n",
        "tabs": b"a:\n\tb: 1\n",
        "UTF-16": "seed: 0\n".encode("utf-16"),
        "Latin-1": "seed: 0 # ä\n".encode("latin-1"),
        "a bomb of aliases": bomb.encode(),
        "an alias to itself": b"a: &a [*a]\n",
        "a key that is a list": b"? [a, b]\n: 1\n",
        "twins": b"seed: 1\nseed: 2\n",
        "an object": b"seed: !!python/object/apply:os.system ['touch ran']\n",
        "a tag": b"seed: !mine 3\n",
        "two documents": b"seed: 1\n---\nseed: 2\n",
        "deeply nested": b"a: " + b"[" * 3000 + b"]" * 3000,
        "one long line": b"a: " + b"x" * 10**6,
    }.items():
        yield f"config.yaml {title}", partial(write, content), "run|config.yaml"
    for share in (0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, rng.uniform(0.1, 0.8)):
        yield f"config.yaml cut at {share:.0%}", partial(cut, share), "run|must be given|config.yaml|[a-z_]+"
    for title, text in {
        "hydra's settings": f"hydra: {{run: {{dir: {RAN}}}}}\n",
        "defaults": "defaults: [base]\n",
        "a package": "# @package _global_\n",
        "a resolver": "output_dir: ${oc.env:HOME}\n",
        "a resolver within": "monitor: x${oc.create:{a: 1}}\n",
        "a strange key": "nowhere: 1\n",
    }.items():
        yield f"config.yaml with {title}", partial(add, text), "config.yaml"


def nodes(rng: random.Random) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """Parts that are none, and values of another type."""

    def put(key: str, value: object, folder: Path) -> None:
        tree = yaml.safe_load((folder / CONFIG).read_text())
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
        (folder / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False))

    for part in PARTS:
        for target in rng.sample(TARGETS, 4):
            if target:
                yield f"{part} is {target}", partial(put, f"{part}._target_", target), part
    for key in ("trainer", "data", "data.dataset", "backbone", "head", "optimizer", "callbacks", "logger", "normalize"):
        for value in (5, "text", [1]):
            yield f"{key} is {value!r}", partial(put, key, value), key.split(".")[-1]
    for key in ("seed", "trainer.max_epochs", "data.batch_size", "data.num_workers", "trainer.accumulate_grad_batches"):
        yield f"{key} is text", partial(put, key, "abc"), key.split(".")[-1]
    yield (
        "a callback that runs code",
        partial(put, "callbacks.x", {"_target_": "os.system", "command": "touch ran"}),
        "_target_",
    )
    yield "a nested part", partial(put, "loss.x", [{"_target_": "os.system", "command": "touch ran"}]), "_target_"


def folders(rng: random.Random) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """Checkpoints that are damaged, gone, folders or another network's."""
    last, best = "run/checkpoints/last.ckpt", "run/checkpoints/best.ckpt"

    def config_gone(folder: Path) -> None:
        (folder / CONFIG).unlink()

    def config_a_folder(folder: Path) -> None:
        (folder / CONFIG).unlink()
        (folder / CONFIG).mkdir()

    def both(content: bytes, folder: Path) -> None:
        for path in (last, best):
            (folder / path).write_bytes(content)

    def halves(folder: Path) -> None:
        for path in (last, best):
            (folder / path).write_bytes((folder / path).read_bytes()[:5000])

    def flipped(folder: Path) -> None:
        for path in (last, best):
            content = bytearray((folder / path).read_bytes())
            content[len(content) // 2] ^= 255
            (folder / path).write_bytes(content)

    def directories(folder: Path) -> None:
        for path in (last, best):
            (folder / path).unlink()
            (folder / path).mkdir()

    def a_file(folder: Path) -> None:
        shutil.rmtree(folder / "run")
        (folder / "run").write_text("a file")

    def foreign(folder: Path) -> None:
        import torch

        for path in (last, best):
            torch.save({"state_dict": {"a": torch.zeros(3)}}, folder / path)

    def wider(folder: Path) -> None:
        text = (folder / CONFIG).read_text()
        (folder / CONFIG).write_text(text.replace("  - 4\n  - 4\n", "  - 6\n  - 4\n", 1))

    def environment(folder: Path) -> None:
        (folder / "run/environment.json").unlink()
        (folder / "run/environment.json").mkdir()

    def metrics(content: bytes, folder: Path) -> None:
        (folder / "run/metrics.csv").write_bytes(content)

    yield "without config.yaml, a config.yaml that is a folder", config_a_folder, "run"
    yield "both checkpoints empty", partial(both, b""), "run"
    yield "both checkpoints noise", partial(both, rng.randbytes(4000)), "run"
    yield "both checkpoints cut", halves, r"last\.ckpt"
    yield "both checkpoints damaged", flipped, r"last\.ckpt"
    yield "both checkpoints folders", directories, "run"
    yield "both checkpoints another program's", foreign, r"ckpt"
    yield "another network", wider, r"ckpt|checkpoint|shape|size"
    yield "environment.json a folder", environment, r"environment\.json"
    yield "metrics.csv noise", partial(metrics, rng.randbytes(300)), r"metrics\.csv"
    yield "metrics.csv text", partial(metrics, b"hello\nworld\nmore\n"), r"metrics\.csv"
    yield "metrics.csv short rows", partial(metrics, b"step,a\n1\n\nx,y\n"), r"metrics\.csv"
