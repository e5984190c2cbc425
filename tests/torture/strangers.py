"""Checkpoints, weights and run folders that are none, damaged, or out to run code."""

import random
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case import NETWORK, SHAPES, TINY, Case

READERS: dict[str, tuple[str, ...]] = {
    "evaluate": ("scripts/evaluate.py", "checkpoint=x.ckpt", "accelerator=cpu", "output_dir=out"),
    "predict": (
        *("scripts/predict.py", "checkpoint=x.ckpt", "input=photos/images/val", "output=out", "accelerator=cpu"),
    ),
    "replay": ("scripts/replay.py", "checkpoint=x.ckpt", "accelerator=cpu", "output_dir=out"),
    "init_from": ("train.py", *NETWORK, *SHAPES, *TINY, "init_from=x.ckpt"),
    "weights": ("train.py", "backbone=resnet18", "head=fcn", *SHAPES, *TINY, "backbone.weights=x.ckpt"),
    "summary": ("scripts/summary.py", *NETWORK, "receptive_field=true", "init_from=x.ckpt", "output_dir=out"),
}
RAN = "ran"
"""The file that code from a stranger makes, where it is run."""


class Hostile:
    """What runs code when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them, given to everything that reads checkpoints."""
    for title, damage, named in files(rng):
        for reader in READERS:
            yield Case(f"{reader}: {title}", READERS[reader], named, damage)
    for title, change, named in contents():
        for reader in ("evaluate", "predict", "replay"):
            yield Case(f"{reader}: {title}", READERS[reader], named, partial(changed, change))


def files(rng: random.Random) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """Files that are no whole checkpoint."""
    path = "x.ckpt"

    def write(content: bytes, folder: Path) -> None:
        (folder / path).write_bytes(content)

    def save(value: Any, folder: Path) -> None:
        torch.save(value, folder / path)

    def legacy(value: Any, folder: Path) -> None:
        torch.save(value, folder / path, _use_new_zipfile_serialization=False)

    def cut(share: float, folder: Path) -> None:
        content = whole(folder)
        write(content[: int(share * len(content))], folder)

    def flip(seed: int, folder: Path) -> None:
        # Within what the archive holds: elsewhere are bytes that mean nothing, such as its files' dates.
        content, draw = bytearray(whole(folder)), random.Random(seed)
        with zipfile.ZipFile(folder / "run/checkpoints/last.ckpt") as archive:
            info = draw.choice([info for info in archive.infolist() if info.file_size > 200])
        name = content.index(info.filename.encode(), info.header_offset)
        content[name + len(info.filename) + 150 + draw.randrange(info.file_size - 150)] ^= 1 << draw.randrange(8)
        write(bytes(content), folder)

    def archive_of(names: tuple[str, ...], folder: Path) -> None:
        with zipfile.ZipFile(folder / path, "w") as archive:
            for name in names:
                archive.writestr(name, b"hello")

    def a_folder(folder: Path) -> None:
        (folder / path).mkdir()

    for title, content in {
        "empty": b"",
        "text": b"hello\n",
        "noise": rng.randbytes(5000),
        "pickle's first bytes": b"\x80\x02}q\x00(X",
        "zip's first bytes": b"PK\x03\x04" + rng.randbytes(100),
        "zip's last bytes": b"PK\x05\x06" + bytes(18),
        "zeros": bytes(4096),
        "html": b"<!DOCTYPE html><html></html>",
    }.items():
        yield title, partial(write, content), r"x\.ckpt"
    for share in (0.001, 0.1, 0.5, 0.9, 0.999, rng.random()):
        yield f"cut at {share:.1%}", partial(cut, share), r"x\.ckpt"
    for _ in range(8):
        yield "a bit turned over", partial(flip, rng.randrange(10**6)), r"x\.ckpt"
    yield "a folder", a_folder, r"x\.ckpt"
    yield "an archive of texts", partial(archive_of, ("a.txt",)), r"x\.ckpt"
    yield "an archive like a checkpoint", partial(archive_of, ("x/data.pkl", "x/version")), r"x\.ckpt"
    for title, value in {
        "a tensor": torch.zeros(3),
        "a list": [1, 2],
        "a number": 5,
        "nothing": None,
        "an empty dictionary": {},
        "numbers for keys": {1: torch.zeros(1), 2: "x"},
        "a state dict of numbers": {"state_dict": {"a": 1}},
        "a state dict that is none": {"state_dict": 3, "segframe": 4},
    }.items():
        yield title, partial(save, value), r"x\.ckpt|backbone"
        yield f"{title}, of old", partial(legacy, value), r"x\.ckpt|backbone"
    import os

    for title, call, arguments in (
        ("os.system", os.system, (f"touch {RAN}",)),
        ("eval", eval, (f"open('{RAN}', 'w')",)),
        ("open", open, (RAN, "w")),
        ("torch.load", torch.load, ("y.ckpt",)),
        ("torch.hub.load", torch.hub.load, ("nowhere/x", "y")),
        ("getattr", getattr, ("os", "system")),
    ):
        for place in (Hostile(call, *arguments), {"state_dict": {"a": Hostile(call, *arguments)}}):
            yield f"{title} in {type(place).__name__}", partial(save, place), r"x\.ckpt"
            yield f"{title} in {type(place).__name__}, of old", partial(legacy, place), r"x\.ckpt"


def whole(folder: Path) -> bytes:
    """The content of a good checkpoint."""
    return (folder / "run/checkpoints/last.ckpt").read_bytes()


def changed(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    """A good checkpoint but for one thing."""
    content = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    change(content)
    torch.save(content, folder / "x.ckpt")


TARGETS = (
    *("torch.hub.load", "torch.load", "os.system", "builtins.eval", "subprocess.run", "torch.nn.Identity", "nowhere.X"),
    *(
        "segframe.models.backbones.unet.nn.Conv2d",
        "segframe.models.backbones.unet.torch.load",
        "segframe.models.weights.pretrained.torch.hub.load",
    ),
    *(
        "segframe.models.backbones.base.Backbone",
        "segframe.models.heads.UNet",
        "segframe.models.backbones.unet.UserError",
        "",
        "UNet",
        "x y",
    ),
)


def contents() -> Iterator[tuple[str, Callable[[dict[str, Any]], object], str]]:
    """Checkpoints by our own format that say what cannot be."""

    def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

        return change

    def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            for key in keys[:-1]:
                content = content[key]
            del content[keys[-1]]

        return change

    config = ("segframe", "config")
    for target in TARGETS:
        yield f"a backbone {target!r}", put(target, *config, "backbone", "_target_"), r"x\.ckpt|checkpoint asks for"
    for target in TARGETS[:7]:
        yield f"a head {target!r}", put(target, *config, "head", "_target_"), r"x\.ckpt|checkpoint asks for"
    for target in (5, None, ["torch.load"], {"a": 1}):
        yield f"a backbone {target!r}", put(target, *config, "backbone", "_target_"), r"x\.ckpt|checkpoint asks for"
    for keys in (
        *(("segframe",), config, (*config, "backbone"), (*config, "head"), (*config, "normalize"), ("state_dict",)),
        *(("segframe", "classes"), ("segframe", "palette"), (*config, "backbone", "_target_")),
    ):
        yield f"without {keys[-1]}", drop(*keys), r"x\.ckpt"
        for value in (None, 5, "text", [], [1, [2]], {"a": [1]}, {1: 2}):
            yield f"{keys[-1]}: {value!r}", put(value, *keys), r"x\.ckpt|checkpoint|classes|palette"
    yield "channels that do not fit", put([8, 4, 8, 8, 8], *config, "backbone", "channels"), r"x\.ckpt"
    yield "an argument too many", put(1, *config, "backbone", "nowhere"), r"x\.ckpt"
    yield "text for channels", put("abc", *config, "backbone", "channels"), r"x\.ckpt"
    yield "huge channels", put([10**7] * 5, *config, "backbone", "channels"), r"x\.ckpt"
    yield "a class too many", lambda content: content["segframe"]["classes"].append("more"), r"x\.ckpt|classes"
    yield "a weight too few", lambda content: content["state_dict"].popitem(), r"x\.ckpt"
    yield (
        "a weight of text",
        lambda content: content["state_dict"].update(dict.fromkeys(content["state_dict"], "x")),
        r"x\.ckpt",
    )
    yield (
        "a weight of another shape",
        lambda content: content["state_dict"].update({next(iter(content["state_dict"])): torch.zeros(7, 7, 7)}),
        r"x\.ckpt",
    )
