"""Bad data: images, masks, split lists and folders, as training, evaluation and prediction meet them."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from case import CHECK_DATA, CLASSES, EVALUATE, PREDICT, Case, train_photos
from PIL import Image

Damage = Callable[[Path], object]
LISTS = "data.dataset.splits={train: list.txt, val: list.txt}"
RATIO = "data.dataset.val_ratio=0.5"


def make(folder: Path) -> None:
    """Photos and masks of 40x36 pixels and three classes: folders train and val, and flat ones with a list."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2), ("", 4)):
        for index in range(count):
            name = f"{part[:1] or 'x'}{index}.png"
            image = rng.integers(0, 255, (9, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            mask = rng.integers(0, 3, (9, 10), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            for kind, pixels in (("images", image), ("masks", mask)):
                path = folder / ("" if part else "flat") / kind / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    for root in (folder, folder / "flat"):
        (root / "list.txt").write_text("x0\nx1\nx2\nx3\n")


def saved(suffix: str, *, mode: str | None = None) -> Damage:
    """Saves the file in another format beside its place, and takes it away."""

    def save(path: Path) -> None:
        image = Image.open(path)
        (image.convert(mode) if mode else image).save(path.with_suffix(suffix))
        path.unlink()

    return save


def damages(rng: random.Random) -> Iterator[tuple[str, Damage]]:
    """What makes any file unreadable, whatever its format."""

    def write(content: bytes, path: Path) -> None:
        path.write_bytes(content)

    def cut(share: float, path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def smear(share: float, path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes(len(content) - 4))

    noise = rng.randbytes(3000)
    contents = {"empty": b"", "noise": noise, "html": b"<html>404 Not Found</html>" * 9, "zeros": bytes(999)}
    contents |= {
        "magic alone": b"\x89PNG\r\n\x1a\n",
        "GIF of nothing": b"GIF89a",
        "text": b"hello",
        "BM": b"BM" + noise,
    }
    for title, content in contents.items():
        yield title, partial(write, content)
    for share in (0.02, 0.2, rng.uniform(0.3, 0.7)):
        yield f"cut at {share:.0%}", partial(cut, share)
    yield "zeros after four bytes", partial(smear, 0.5)
    yield "a folder", folder


def pixels(make_mask: Callable[[np.ndarray], np.ndarray], suffix: str = ".png") -> Damage:
    """Replaces a mask by what is made of its values."""

    def replace(path: Path) -> None:
        values = make_mask(np.array(Image.open(path)))
        path.unlink()
        Image.fromarray(values).save(path.with_suffix(suffix))

    return replace


def colours(mask: np.ndarray) -> np.ndarray:
    """In colours that no palette has."""
    return np.stack([mask * 31 + 7, mask * 17 + 3, mask * 5 + 1], 2).astype(np.uint8)


SIZES, VALUE = "same size|different sizes", "holds the value|value that is none"
"""As a dataset says it, and as the look before a training does."""
MASKS: dict[str, tuple[Damage, str]] = {
    "smaller": (pixels(lambda m: m[:-4]), SIZES),
    "turned": (pixels(lambda m: m.T.copy()), SIZES),
    "one pixel": (pixels(lambda m: m[:1, :1].copy()), SIZES),
    "twice": (pixels(lambda m: m.repeat(2, 0)), SIZES),
    "no class": (pixels(lambda m: m + np.uint8(7)), VALUE),
    "a stray value": (
        pixels(lambda m: np.where(m == 2, 77, m).astype(np.uint8)),
        rf"({VALUE}).* 77",
    ),
    "grey levels": (pixels(lambda m: (np.arange(m.size) % 251).reshape(m.shape).astype(np.uint8)), VALUE),
    "16 bits": (pixels(lambda m: m.astype(np.uint16) * 1000), VALUE),
    "colours": (pixels(colours), ""),
    "colours in TIFF": (pixels(colours, ".tif"), ""),
    "colours in BMP": (pixels(colours, ".bmp"), ""),
    "colours with alpha": (pixels(lambda m: np.dstack([colours(m), m])), ""),
    "floats": (pixels(lambda m: m.astype(np.float32) / 2, ".tif"), ""),
    "negative": (pixels(lambda m: m.astype(np.int32) - 5, ".tif"), ""),
    "beyond 16 bits": (pixels(lambda m: m.astype(np.int32) + 70000, ".tif"), ""),
    "gone": (Path.unlink, "no mask"),
    "JPEG": (saved(".jpg", mode="RGB"), "no mask"),
}
IMAGES: dict[str, tuple[Damage, str]] = {
    "16 bits": (pixels(lambda m: m[..., 0].astype(np.uint16) * 256), "8 bits"),
    "floats": (pixels(lambda m: m[..., 0].astype(np.float32), ".tif"), "8 bits"),
    "32 bits": (pixels(lambda m: m[..., 0].astype(np.int32), ".tif"), "8 bits"),
    "gone": (lambda path: (path.unlink(), path.with_suffix(".txt").touch()), "no sub-folders|is empty|no image|cannot"),
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".webp")


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them, seen by train.py with and without workers, evaluate.py and predict.py."""
    evaluate = (*EVALUATE, "data.num_workers=0")
    for kind, suffixes in (("images", SUFFIXES), ("masks", (".png", ".bmp", ".tif", ".gif"))):
        for suffix in suffixes:
            for title, damage in damages(rng):
                part = rng.choice(("train", "val"))
                program = rng.choice((train_photos, evaluate, PREDICT)) if part == "val" else train_photos
                if program is PREDICT and (kind == "masks" or title == "a folder"):
                    program = evaluate  # which reads masks, too, and does not pass over folders
                words = program(f"data.num_workers={rng.choice((0, 0, 1))}") if callable(program) else program
                prepare = partial(damage_all, f"photos/{kind}/{part}", suffix, damage)
                yield Case(f"{words[0]}: {part} {kind}{suffix}: {title}", words, rf"{part[0]}\d\{suffix}", prepare)
    for title, (damage, named) in MASKS.items():
        for part in ("train", "val"):
            words = evaluate if part == "val" and rng.random() < 0.5 else train_photos()
            prepare = partial(damage_all, f"photos/masks/{part}", ".png", damage)
            culprit = rf"{part[0]}\d.*({named})|({named}).*{part[0]}\d"
            yield Case(f"{words[0]}: {part} masks: {title}", words, culprit, prepare)
    for title, (damage, named) in IMAGES.items():
        if title != "gone":
            prepare = partial(damage_all, "photos/images/val", ".png", damage)
            yield Case(f"predict: images: {title}", PREDICT, named, prepare)
            yield Case(f"train: images: {title}", train_photos(), named, prepare)
    yield from lists(rng)
    yield from places()


def looked_through(rng: random.Random) -> Iterator[Case]:
    """What ends a training, given to check_data.py, which tells it with all else that is wrong."""
    for case in cases(rng):
        if case.words[0] == "train.py":
            data = (word for word in case.words if word.startswith("data"))
            # Its words for what is wrong with a file are its own.
            culprit = case.culprit.partition(".*")[0]
            yield replace(
                case,
                title=case.title.replace("train", "check_data", 1),
                words=(CHECK_DATA[0], *data, CHECK_DATA[-1]),
                culprit=culprit,
                found=True,
            )


def damage_all(below: str, suffix: str, damage: Damage, folder: Path) -> None:
    """Damages the files of a folder, once they have the format."""
    for path in sorted((folder / below).iterdir()):
        if suffix != path.suffix:
            saved(suffix, mode="RGB" if suffix in (".jpg", ".jpeg", ".webp") else None)(path)
        damage(path.with_suffix(suffix))


def lists(rng: random.Random) -> Iterator[Case]:
    """Split lists, label files and colours that do not fit the data."""
    flat = ("data.root=photos/flat", LISTS)
    contents = {
        "a name that is not there": b"x0\nx1\nzebra\n",
        "all names wrong": b"a\nb\nc\n",
        "empty": b"",
        "blank": b"\n \n\t\n",
        "noise": rng.randbytes(400),
        "more noise": bytes(range(128, 256)),
        "UTF-16": "x0\nx1\n".encode("utf-16"),
        "UTF-32": "x0\nx1\n".encode("utf-32"),
        "Latin-1": "x0\nstraße\n".encode("latin-1"),
        "zeros": bytes(50),
        "twins": b"x0\nx1\nx0\n",
        "commas": b"x0,x1,x2\n",
        "JSON": b'["x0", "x1"]',
        "a long line": b"x" * 100_000,
        "paths": b"images/x0.png masks/nowhere.png\n",
        "paths out of it": b"../../../etc/passwd /etc/passwd\n",
        "paths absolute": b"/etc/passwd.png /etc/passwd\n",
        "three words": b"images/x0.png masks/x0.png more\n",
    }
    for title, content in contents.items():
        prepare = partial(write, "photos/flat/list.txt", content)
        yield Case(f"train: a list, {title}", train_photos(*flat), r"list\.txt|photos/flat|nowhere", prepare)
        # The same as a file of class names.
        if title not in ("a name that is not there", "all names wrong", "JSON", "commas", "a long line", "three words"):
            yield Case(
                f"train: classes from a file, {title}",
                train_photos("data.dataset.classes=names.txt"),
                r"classes|names\.txt|holds the value",
                partial(write, "photos/names.txt", content),
            )
    yield Case(
        "train: a list, a folder", train_photos("data.root=photos/flat", LISTS.replace("list.txt", "images")), "images"
    )


def write(name: str, content: bytes, folder: Path) -> None:
    """Puts a file there."""
    (folder / name).write_bytes(content)


def places() -> Iterator[Case]:
    """Folders that are empty, gone, or files."""

    def empty(below: str, folder: Path) -> None:
        shutil.rmtree(folder / below)
        (folder / below).mkdir()

    def gone(below: str, folder: Path) -> None:
        shutil.rmtree(folder / below)

    def file(below: str, folder: Path) -> None:
        shutil.rmtree(folder / below)
        (folder / below).write_text("a file")

    def loop(below: str, folder: Path) -> None:
        shutil.rmtree(folder / below)
        (folder / below).symlink_to(folder / below)

    for below in ("images", "masks", "images/train", "masks/train", "images/val", "masks/val"):
        for damage in (empty, gone, file, loop):
            prepare = partial(damage, f"photos/{below}")
            yield Case(f"train: photos/{below} {damage.__name__}", train_photos(), below.split("/")[-1], prepare)
    for damage in (empty, gone, file, loop):
        yield Case(f"train: photos {damage.__name__}", train_photos(), "photos", partial(damage, "photos"))
        yield Case(f"evaluate: photos {damage.__name__}", EVALUATE, "photos", partial(damage, "photos"))
        prepare = partial(damage, "photos/images/val")
        if damage is not file:
            yield Case(f"predict: input {damage.__name__}", PREDICT, "photos/images/val", prepare)
    for name in ("voc", "camvid"):
        for root in ("nowhere", "photos", "run", "run/config.yaml"):
            if (name, root) == ("camvid", "photos"):
                continue  # which is laid out so
            words = ("train.py", f"data={name}", f"data.root={root}", "output_dir=out")
            yield Case(f"train: {name} at {root}", words, root)
    for name in ("train", "val"):
        for kind in ("images", "masks"):
            twin = partial(write, f"photos/{kind}/{name}/{name[0]}0.bmp", b"BM")
            yield Case(f"train: twins in {kind}/{name}", train_photos(), f"{name[0]}0", twin)
    yield Case("train: another class list", (*EVALUATE, CLASSES.replace("ground", "sea")), "sea|classes")
