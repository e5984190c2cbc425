"""A bad input: a command, the damage done before it, and what its error message must name."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLASSES = "data.dataset.classes=[ground,road,sky]"
NETWORK = ("model=unet", "backbone.channels=[4,4,8,8,8]", "head.channels=[8,8,4,4]")
TINY = (
    *("trainer.accelerator=cpu", "trainer.max_steps=2", "callbacks=none", "logger=none", "data.batch_size=2"),
    *("data.num_workers=0", "output_dir=out"),
)
SHAPES = ("data.dataset.size=32", "data.dataset.num_images={train: 4, val: 2, test: 2}", "data.crop_size=32")
PHOTOS = ("data=folder", "data.root=photos", CLASSES, "data.crop_size=32")
TRAIN = ("train.py", *NETWORK, *SHAPES, *TINY)
TRAIN_PHOTOS = ("train.py", *NETWORK, *PHOTOS, *TINY)
EVALUATE = ("scripts/evaluate.py", "checkpoint=run", "accelerator=cpu", "output_dir=out", "data.num_workers=0")
PREDICT = ("scripts/predict.py", "checkpoint=run", "input=photos/images/val", "output=out", "accelerator=cpu")
CHECK_DATA = ("scripts/check_data.py", *PHOTOS[:3], "data.num_workers=0", "output_dir=out")
SUMMARY = ("scripts/summary.py", "receptive_field=false", "output_dir=out")
REPLAY = ("scripts/replay.py", "checkpoint=run/checkpoints/last.ckpt", "accelerator=cpu", "output_dir=out")


@dataclass
class Case:
    """`words` are run in a folder with a run, `run`, and data, `photos`, after `prepare` has damaged them."""

    title: str
    words: tuple[str, ...]
    culprit: str
    """A regular expression that must be found in the message."""
    prepare: Callable[[Path], object] = lambda folder: None


def typo(word: str, rng: random.Random, known: set[str]) -> str:
    """Return the word with a typing error that makes it none of the known words."""
    while True:
        k = rng.randrange(len(word))
        letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
        wrong = rng.choice((word[:k] + word[k + 1 :], word[:k] + letter + word[k:], word[:k] + letter + word[k + 1 :]))
        if wrong and wrong not in known and wrong[0].isalpha() and wrong[-1].isalnum():
            return wrong
