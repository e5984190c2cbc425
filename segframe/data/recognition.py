"""Recognition of the dataset that a folder holds, and the settings by which programs read it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import split as split_words
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_method

from segframe.config import schema
from segframe.data.annotations import open_masks
from segframe.data.annotations.find import find_annotations
from segframe.data.annotations.labelme import Labelme
from segframe.data.annotations.source import Annotations
from segframe.data.base import SegmentationDataset
from segframe.data.class_proposal import TWO, propose_classes
from segframe.data.datasets.folder import Folder
from segframe.data.file_listing import require
from segframe.data.layouts import (
    SPLIT,
    count_images,
    find_layouts,
    find_shared_folders,
    find_split_lists,
    split_name,
)
from segframe.errors import UserError

KNOWN = (
    "folders of images and masks (images/train and masks/train, images and masks, x.jpg and x_mask.png), lists "
    "train.txt and val.txt, COCO's and labelme's JSON files, and the data sets of data=..."
)
_TEXT = ("images", "masks", "annotations", "image_suffix", "mask_suffix")
"""Settings whose values are no YAML."""
_PREFIX = "data.dataset."


class Recognized(NamedTuple):
    """What a folder holds."""

    what: str
    settings: list[str]
    """data=... and the others, as words of a command line without quotes; data.root is not among them."""


def recognize(root: Path, given: Sequence[str] = ()) -> Recognized:
    """Return the settings that read a folder, opened once to be sure; UserError if nothing is recognised.

    `given`: settings data.dataset.* that the user has chosen; they are not returned again.
    """
    require(root, "point data.root at the folder of the images")
    if not given and (option := _named_dataset(root)):
        return Recognized(f"the data set {option}", [f"data={option}"])
    reasons: list[str] = []
    for words in _candidates(root):
        words = [word for word in words if word.partition("=")[0] not in {each.partition("=")[0] for each in given}]
        try:
            return _complete(root, words, given)
        except UserError as error:
            reasons.append(str(error))
    images, others = count_images(root), find_annotations(root)
    there = ", ".join(f"{folder} ({count} images)" for folder, count in sorted(images.items())[:5]) or "no image"
    more = f" and {', '.join(others[:2])}" if others else ""
    reason = f"; {reasons[-1]}" if reasons and (others or "masks" in reasons[-1]) else ""
    raise UserError(f"data.root={root}: {there}{more}, and no layout that is recognised: {KNOWN}{reason}")


def _named_dataset(root: Path) -> str | None:
    for path in sorted(path for path in schema.yaml_files() if path.parent.name == "data"):
        target = re.search(r"^  _target_: (\S+)", path.read_text("utf-8"), re.MULTILINE)
        with suppress(ImportError, AttributeError, ValueError):  # of a user's own dataset
            if target and get_method(f"{target[1]}.looks_like")(root):
                return path.stem
    return None


def _candidates(root: Path) -> Iterator[list[str]]:
    """Yield the settings of paths and splits that may be right, the likeliest first."""
    yield []
    lists = [split_words(setting) for setting in find_split_lists(root)]
    yield from map(_words, [*map(str, find_layouts(root, True)), *find_shared_folders(root, True)])
    flat = [_words(setting) for setting in [*map(str, find_layouts(root, False)), *find_shared_folders(root, False)]]
    for splits in lists:
        yield splits  # of pairs, or of names in images and masks
        yield from ([*layout, *splits] for layout in flat)
    paths = find_annotations(root)
    patterns = list(dict.fromkeys(path for path in map(split_name, paths) if SPLIT in path))
    yield from ([f"{_PREFIX}annotations={path}"] for path in patterns)
    for path in paths:
        yield from ([f"{_PREFIX}annotations={path}", *splits] for splits in lists)
    ratio = f"{_PREFIX}val_ratio=0.2"
    yield [ratio]
    yield from ([*layout, ratio] for layout in flat)
    yield from ([f"{_PREFIX}annotations={path}", ratio] for path in paths)


def _complete(root: Path, words: list[str], given: Sequence[str]) -> Recognized:
    """Return the settings with splits and classes; UserError if the splits cannot be opened."""
    arguments = _arguments([*words, *given])
    by_split = arguments.get("splits") is None and arguments.get("val_ratio") is None
    source = open_masks(
        root,
        "train",
        images=arguments.get("images"),
        masks=arguments.get("masks"),
        annotations=arguments.get("annotations"),
        image_suffix=arguments.get("image_suffix", ""),
        mask_suffix=arguments.get("mask_suffix", ""),
        binary=arguments.get("binary"),
        by_split=by_split,
        is_listed="splits" in arguments,
    )
    names = list(arguments["splits"]) if "splits" in arguments else source.splits if by_split else ["train", "val"]
    train, val = _choose(names, "train"), _choose(names, "val") or _choose(names, "test")
    if names == [train]:
        return _complete(root, _words(source.divide()), given)
    if not train or not val:
        raise UserError(f"the splits below {root} are {', '.join(names)}: none is for training or validation")
    chosen = [f"data.{kind}_split={name}" for kind, name in (("train", train), ("val", val)) if name != kind]

    def open_splits(more: Sequence[str]) -> list[SegmentationDataset]:
        return [Folder(root, split, **_arguments([*words, *more, *given])) for split in (train, val)]

    classes: list[str] = []
    if isinstance(source, Annotations):
        kind = "labelme's annotations" if isinstance(source, Labelme) else "COCO annotations"
        datasets = open_splits([])
        if "annotations" not in arguments:
            words = [f"{_PREFIX}annotations={source.path}", *words]
        if isinstance(source, Labelme) and "classes" not in arguments:
            classes = [f"{_PREFIX}classes=[{','.join(map(typed, datasets[0].classes))}]"]
        names_of_classes = ", ".join(datasets[0].classes[:8]) + ", ..." * (len(datasets[0].classes) > 8)
        what = f"{kind} in {source.path}, with the classes {names_of_classes}"
    else:
        datasets = open_splits([] if "classes" in arguments else [TWO])
        what = "images and masks"
        if "classes" not in arguments:
            classes, where = propose_classes(root, open_splits)
            what += f", {where}"
    sizes = ", ".join(f"{len(each)} images of {each.split}" for each in datasets)
    return Recognized(f"{what}; {sizes}", ["data=folder", *words, *classes, *chosen])


def _choose(names: Sequence[str], kind: str) -> str | None:
    return next((name for name in sorted(names) if name.lower().startswith(kind)), None)


def _words(settings: str) -> list[str]:
    return re.split(r" (?=data\.)", settings)


def _arguments(words: Sequence[str]) -> dict[str, Any]:
    # Of Folder.
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.removeprefix(_PREFIX).partition("=")
        is_text = name in _TEXT or (name == "classes" and not value.startswith("["))
        found[name] = value if is_text else yaml.safe_load(value)
    return found


def typed(name: str) -> str:
    """Return a name as it is typed in a list of Hydra's."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w\-. ]*", name) and name.lower() not in ("null", "true", "false", "nan", "inf")
    return name if is_plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
