"""A bad input: a command, what it is given, and the word that its one sentence must hold."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CLASSES = "data.dataset.classes=[ground,road,sky]"
NETWORK = ("model=unet", "backbone.channels=[4,4,8,8,8]", "head.channels=[8,8,4,4]")
TINY = (
    *("trainer.accelerator=cpu", "trainer.max_steps=2", "callbacks=none", "logger=none", "data.batch_size=2"),
    *("data.num_workers=0", "output_dir=out"),
)
SHAPES = ("data.dataset.size=32", "data.dataset.num_images={train: 4, val: 2, test: 2}", "data.crop_size=32")
PHOTOS = ("data=folder", "data.root=photos", CLASSES, "data.crop_size=32")
EVALUATE = ("scripts/evaluate.py", "checkpoint=run", "accelerator=cpu", "output_dir=out")
PREDICT = ("scripts/predict.py", "checkpoint=run", "input=photos/images/val", "output=out", "accelerator=cpu")
CHECK_DATA = ("scripts/check_data.py", *PHOTOS[:3], "data.num_workers=0", "output_dir=out")


@dataclass
class Case:
    """`words` are given in a folder with a run, `run`, and data, `photos`, after `prepare` has damaged them."""

    title: str
    words: tuple[str, ...]
    culprit: str
    """A regular expression that must be found in the sentence."""
    prepare: Callable[[Path], object] = field(default=lambda folder: None)
    found: bool = False
    """Whether check_data.py may tell it as a finding instead, with the others."""


def typo(word: str, rng: random.Random, known: set[str]) -> str:
    """The word with a slip of the finger that makes it none of the known ones."""
    while True:
        k = rng.randrange(len(word))
        letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
        slips = (
            word[:k] + word[k + 1 :],
            word[:k] + word[k] + word[k:],
            word[: max(0, k - 1)] + word[k : k + 1] + word[max(0, k - 1) : k] + word[k + 1 :],
            word[:k] + letter + word[k:],
            word[:k] + letter + word[k + 1 :],
        )
        slip = rng.choice(slips)
        if slip and slip not in known and slip[0].isalpha() and slip[-1].isalnum():
            return slip


def train(*words: str) -> tuple[str, ...]:
    """A run of two steps on generated images."""
    return ("train.py", *NETWORK, *SHAPES, *TINY, *words)


def train_photos(*words: str) -> tuple[str, ...]:
    """A run of two steps on files."""
    return ("train.py", *NETWORK, *PHOTOS, *TINY, *words)
