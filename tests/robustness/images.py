"""Bad data: images, masks, split lists and folders, read by training, evaluation, prediction and check_data."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from case import CHECK_DATA, EVALUATE, PREDICT, Case, train_photos
from PIL import Image

Damage = Callable[[Path], object]
LISTS = ("data.root=photos/flat", "data.dataset.splits={train: list.txt, val: list.txt}")


def write_dataset(folder: Path) -> None:
    """Write images and masks of 40x36 pixels and three classes: folders train and val, and flat ones with a list."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2), ("", 4)):
        for index in range(count):
            image = rng.integers(0, 255, (9, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            mask = rng.integers(0, 3, (9, 10), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            for kind, pixels in (("images", image), ("masks", mask)):
                path = folder / ("" if part else "flat") / kind / part / f"{part[:1] or 'x'}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (folder / "flat/list.txt").write_text("x0\nx1\nx2\nx3\n")


def pixels(change: Callable[[np.ndarray], np.ndarray], suffix: str = ".png") -> Damage:
    """Damage that replaces an image or mask by one computed from its values."""

    def damage(path: Path) -> None:
        values = change(np.array(Image.open(path)))
        path.unlink()
        Image.fromarray(values).save(path.with_suffix(suffix))

    return damage


def colours(mask: np.ndarray) -> np.ndarray:
    """A mask in colours of no palette."""
    return np.stack([mask * 31 + 7, mask * 17 + 3, mask * 5 + 1], 2).astype(np.uint8)


SIZES, VALUE = "same size|different sizes", "holds the value|value that is none"
"""In the words of a dataset, and of the quick check before training."""
MASKS: dict[str, tuple[Damage, str]] = {
    "smaller": (pixels(lambda m: m[:-4]), SIZES),
    "transposed": (pixels(lambda m: m.T.copy()), SIZES),
    "of no class": (pixels(lambda m: m + np.uint8(7)), VALUE),
    "with a stray value": (pixels(lambda m: np.where(m == 2, 77, m).astype(np.uint8)), rf"({VALUE}).* 77"),
    "of 16 bits": (pixels(lambda m: m.astype(np.uint16) * 1000), VALUE),
    "in colours": (pixels(colours), ""),
    "of floats": (pixels(lambda m: m.astype(np.float32) / 2, ".tif"), ""),
    "gone": (Path.unlink, "no mask"),
}


def cases(rng: random.Random) -> Iterator[Case]:
    """Cases of train.py, evaluate.py and predict.py."""
    for kind, suffixes in (("images", (".jpg", ".png", ".tif")), ("masks", (".png", ".tif"))):
        for suffix in suffixes:
            for title, damage in damages(rng).items():
                part = rng.choice(("train", "val"))
                readers = {"train": [train_photos()], "images": [EVALUATE, PREDICT], "masks": [EVALUATE]}
                words = rng.choice(readers["train" if part == "train" else kind])
                prepare = partial(damage_all, f"photos/{kind}/{part}", suffix, damage)
                yield Case(f"{words[0]}: {part} {kind}{suffix} {title}", words, rf"{part[0]}\d\{suffix}", prepare)
    for title, (damage, named) in MASKS.items():
        for part, words in (("train", train_photos()), ("val", EVALUATE)):
            prepare = partial(damage_all, f"photos/masks/{part}", ".png", damage)
            culprit = rf"{part[0]}\d.*({named})|({named}).*{part[0]}\d"
            yield Case(f"{words[0]}: {part} masks {title}", words, culprit, prepare)
    yield from lists(rng)
    yield from folders()


def check_data_cases(rng: random.Random) -> Iterator[Case]:
    """The cases of train.py, for check_data.py, which reports each with all other findings."""
    for case in cases(rng):
        if case.words[0] == "train.py":
            data = (word for word in case.words if word.startswith("data"))
            # The message's words about the file may differ.
            culprit = case.culprit.partition(".*")[0]
            title = case.title.replace("train", "check_data", 1)
            yield replace(
                case, title=title, words=(CHECK_DATA[0], *data, "output_dir=out"), culprit=culprit, is_finding=True
            )


def damages(rng: random.Random) -> dict[str, Damage]:
    """Damage that makes a file of any format unreadable."""
    share, noise = rng.uniform(0.3, 0.7), rng.randbytes(3000)
    contents: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"",
        "of noise": lambda content: noise,
        "cut": lambda content: content[: int(share * len(content))],
    }

    def change(new: Callable[[bytes], bytes], path: Path) -> None:
        path.write_bytes(new(path.read_bytes()))

    return {title: partial(change, new) for title, new in contents.items()}


def damage_all(below: str, suffix: str, damage: Damage, folder: Path) -> None:
    """Convert the files of a folder to the format, and damage them."""
    for path in sorted((folder / below).iterdir()):
        if suffix != path.suffix:
            image = Image.open(path)
            (image.convert("RGB") if suffix == ".jpg" else image).save(path.with_suffix(suffix))
            path.unlink()
        damage(path.with_suffix(suffix))


def lists(rng: random.Random) -> Iterator[Case]:
    """Split lists that do not fit the data."""
    for title, content in {
        "with an unknown name": b"x0\nx1\nzebra\n",
        "empty": b"",
        "of noise": rng.randbytes(400),
        "with duplicates": b"x0\nx1\nx0\n",
        "of missing files": b"images/x0.png masks/nowhere.png\n",
        "of absolute paths": b"/etc/passwd.png /etc/passwd\n",
    }.items():
        prepare = partial(write, "photos/flat/list.txt", content)
        yield Case(f"train: a list {title}", train_photos(*LISTS), r"list\.txt|photos/flat|nowhere", prepare)


def write(name: str, content: bytes, folder: Path) -> None:
    """Write a file."""
    (folder / name).write_bytes(content)


def folders() -> Iterator[Case]:
    """Folders that are empty or missing, and two files of one name."""

    def remove(below: str, folder: Path) -> None:
        shutil.rmtree(folder / below)

    def empty(below: str, folder: Path) -> None:
        shutil.rmtree(folder / below)
        (folder / below).mkdir()

    for damage in (remove, empty):
        for below in ("photos", "photos/images", "photos/images/train", "photos/masks/val"):
            prepare = partial(damage, below)
            yield Case(f"train: {below} {damage.__name__}", train_photos(), below.split("/")[-1], prepare)
    for name in ("voc", "camvid"):
        for root in ("nowhere", "run"):
            words = ("train.py", f"data={name}", f"data.root={root}", "output_dir=out")
            yield Case(f"train: {name} at {root}", words, root)
    for kind in ("images", "masks"):
        twin = partial(write, f"photos/{kind}/train/t0.bmp", b"BM")
        yield Case(f"train: two {kind} of one name", train_photos(), "t0", twin)
