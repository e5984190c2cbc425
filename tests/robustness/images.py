"""Bad data: images, masks and folders, read by training, evaluation, prediction and check_data."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from case import CHECK_DATA, EVALUATE, PREDICT, TRAIN_PHOTOS, Case
from PIL import Image

Damage = Callable[[Path], object]


def write_dataset(folder: Path) -> None:
    """Write images and masks of 40x36 pixels and three classes, in folders train and val."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for index in range(count):
            image = rng.integers(0, 255, (9, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            mask = rng.integers(0, 3, (9, 10), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            for kind, pixels in (("images", image), ("masks", mask)):
                path = folder / kind / part / f"{part[0]}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def pixels(change: Callable[[np.ndarray], np.ndarray], suffix: str = ".png") -> Damage:
    """Damage that replaces an image or mask by one computed from its values."""

    def damage(path: Path) -> None:
        values = change(np.array(Image.open(path)))
        path.unlink()
        if suffix == ".npy":
            np.save(path.with_suffix(suffix), values)
        elif values.ndim == 3 and values.dtype == np.uint16:
            cv2.imwrite(str(path), values)
        else:
            Image.fromarray(values).save(path.with_suffix(suffix))

    return damage


SIZES, VALUE = "same size|different sizes", "holds the value|value that is none"
"""In the words of a dataset, and of the quick check before training."""
MASKS: dict[str, tuple[Damage, str]] = {
    "smaller": (pixels(lambda m: m[:-4]), SIZES),
    "with a stray value": (pixels(lambda m: np.where(m == 2, 77, m).astype(np.uint8)), rf"({VALUE}).* 77"),
    "of 16 bits": (pixels(lambda m: m.astype(np.uint16) * 1000), VALUE),
    "in colours of no palette": (pixels(lambda m: np.stack([m * 31 + 7, m * 17 + 3, m], 2)), ""),
    "of floats": (pixels(lambda m: m.astype(np.float32) / 2, ".tif"), ""),
    "as JPEG": (pixels(lambda m: m * 100, ".jpg"), "JPEG|no mask"),
    "gone": (Path.unlink, "no mask"),
}
DEPTH, CHANNELS = "bits|max_value", "channels"
IMAGES: dict[str, tuple[Damage, str]] = {
    "of 16 bits": (pixels(lambda i: i.astype(np.uint16) * 257), DEPTH),
    "of one channel of 16 bits": (pixels(lambda i: i[..., 0].astype(np.uint16) * 257), DEPTH),
    "with alpha that varies": (pixels(lambda i: np.dstack([i, i[..., 0]])), CHANNELS),
    "of six bands": (pixels(lambda i: np.dstack([i, i]), ".npy"), CHANNELS),
    "of floats": (pixels(lambda i: i / 255, ".npy"), "float"),
    "of numbers in a row": (pixels(lambda i: i.ravel(), ".npy"), "shape"),
    "of objects": (pixels(lambda i: np.array([[{}]]), ".npy"), "damaged"),
}


def lists(rng: random.Random) -> dict[str, tuple[bytes, str]]:
    """Contents of train.txt and of a file of classes, and what a message about them must name."""
    name, noise, most = rng.choice(("t0", "t1.png")), rng.randbytes(300), rng.choice((500, 5000, 200_000))
    return {
        "empty": (b"", "lists nothing|holds"),
        "of noise": (noise, r"\.txt|line \d"),
        "in UTF-16": (f"{name}\n".encode("utf-16"), "UTF-8"),
        "of a long line": (b"x" * most, "xxx"),
        "of many words": (b"word " * most, "word"),
        "of what is not there": (b"t0\nt9\n", "t9"),
        "that repeats itself": (f"{name}\n{name}\n".encode(), "t0|t1"),
        "of markup": (b"<annotation><filename>t0</filename>\n", "filename"),
    }


def cases(rng: random.Random) -> Iterator[Case]:
    """Cases of train.py, evaluate.py and predict.py."""
    readers = {"train": [TRAIN_PHOTOS], "images": [EVALUATE, PREDICT], "masks": [EVALUATE]}
    for kind, suffixes in (("images", (".jpg", ".png", ".tif")), ("masks", (".png", ".tif"))):
        for suffix in suffixes:
            for title, damage in damages(rng).items():
                part = rng.choice(("train", "val"))
                words = rng.choice(readers["train" if part == "train" else kind])
                prepare = partial(damage_all, f"photos/{kind}/{part}", suffix, damage)
                yield Case(f"{words[0]}: {part} {kind}{suffix} {title}", words, rf"{part[0]}\d\{suffix}", prepare)
    for kind, unexpected in (("masks", MASKS), ("images", IMAGES)):
        for title, (damage, named) in unexpected.items():
            for part, words in (("train", TRAIN_PHOTOS), ("val", rng.choice(readers[kind]))):
                prepare = partial(damage_all, f"photos/{kind}/{part}", ".png", damage)
                culprit = rf"{part[0]}\d.*({named})|({named}).*{part[0]}\d"
                yield Case(f"{words[0]}: {part} {kind} {title}", words, culprit, prepare)
    listed = (
        *("data.dataset.images=images/train", "data.dataset.masks=masks/train"),
        "data.dataset.splits={train: list.txt, val: val.txt}",
    )
    for title, (content, named) in lists(rng).items():
        for words in (listed, ("data.dataset.classes=list.txt",)):
            kind = "list" if words == listed else "file of classes"
            if kind == "list" or title not in ("of what is not there", "of a long line", "of markup"):
                prepare = partial(write_lists, content)
                named = f"{named}|list.txt|classes holds"
                yield Case(f"train: {kind} {title}", (*TRAIN_PHOTOS, *words), named, prepare)
    yield from folders()


def write_lists(content: bytes, folder: Path) -> None:
    """Write list.txt, and val.txt, which is right."""
    (folder / "photos/list.txt").write_bytes(content)
    (folder / "photos/val.txt").write_text("t3\n")


def check_data_cases(rng: random.Random) -> Iterator[Case]:
    """The cases of train.py, for check_data.py, which reports each with all other findings."""
    for case in cases(rng):
        if case.words[0] == "train.py":
            data = (word for word in case.words if word.startswith("data"))
            words = (CHECK_DATA[0], *data, "output_dir=out")
            # The message's words about the file may differ.
            culprit, title = case.culprit.partition(".*")[0], case.title.replace("train", "check_data", 1)
            yield replace(case, title=title, words=words, culprit=culprit)


def damages(rng: random.Random) -> dict[str, Damage]:
    """Damage that makes a file of any format unreadable."""
    share, noise = rng.uniform(0.3, 0.7), rng.randbytes(3000)
    return {
        "empty": lambda path: path.write_bytes(b""),
        "of noise": lambda path: path.write_bytes(noise),
        "cut": lambda path: os.truncate(path, int(share * path.stat().st_size)),
    }


def damage_all(below: str, suffix: str, damage: Damage, folder: Path) -> None:
    """Convert the files of a folder to the format, and damage them."""
    for path in sorted((folder / below).iterdir()):
        if suffix != path.suffix:
            image = Image.open(path)
            (image.convert("RGB") if suffix == ".jpg" else image).save(path.with_suffix(suffix))
            path.unlink()
        damage(path.with_suffix(suffix))


def folders() -> Iterator[Case]:
    """Folders that are empty or missing, and two files of one name."""

    def empty(below: str, exists: bool, folder: Path) -> None:
        shutil.rmtree(folder / below)
        if exists:
            (folder / below).mkdir()

    for below in ("photos", "photos/images", "photos/images/train", "photos/masks/val"):
        for exists in (False, True):
            title = f"train: {below} {'empty' if exists else 'missing'}"
            yield Case(title, TRAIN_PHOTOS, below.split("/")[-1], partial(empty, below, exists))
    for name, root in (("voc", "nowhere"), ("camvid", "run")):
        words = ("train.py", f"data={name}", f"data.root={root}", "output_dir=out")
        yield Case(f"train: {name} at {root}", words, root)
    for kind in ("images", "masks"):
        twin = f"photos/{kind}/train/t0.bmp"
        yield Case(f"train: two {kind} of one name", TRAIN_PHOTOS, "t0", lambda at, twin=twin: (at / twin).touch())
