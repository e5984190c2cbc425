"""Recognition of the dataset that a folder holds, and the settings by which programs read it."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from shlex import split as split_words
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_method

from segframe.config import schema
from segframe.config.overrides import key_of
from segframe.data.annotations import open_masks
from segframe.data.annotations.coco import Coco
from segframe.data.annotations.find import find_annotations, find_json
from segframe.data.annotations.labelme import Labelme
from segframe.data.annotations.source import Annotations
from segframe.data.base import SegmentationDataset
from segframe.data.class_proposal import TWO_CLASSES, propose_classes
from segframe.data.datasets.folder import Folder
from segframe.data.file_listing import collect_problems, require
from segframe.data.layouts import (
    SPLIT,
    count_images,
    find_layouts,
    find_shared_folders,
    find_split_lists,
    kinds_of_splits,
    split_name,
)
from segframe.data.mask_sources import FolderFiles, MaskFolders, MaskSource
from segframe.errors import UserError

KNOWN = (
    "folders of images and masks (images/train and masks/train, images and masks, x.jpg and x_mask.png), lists "
    "train.txt and val.txt, COCO's and labelme's JSON files, and the data sets of data=..."
)
DEPTH, MOST_FOLDERS = 3, 100
"""Levels and number of the folders below the root in which data sets are searched for."""
_TEXT = ("images", "masks", "annotations", "image_suffix", "mask_suffix")
"""Settings whose values are no YAML."""
_PREFIX = "data.dataset."


class _Named(NamedTuple):
    """An option of `data=`, and a function that tells whether a folder holds the dataset of that option."""

    option: str
    looks_like: Callable[[Path], bool]


class Recognized(NamedTuple):
    """A recognised dataset."""

    what: str
    settings: list[str]
    """data=... and the others, as words of a command line without quotes; data.root is not among them."""


def recognize(root: Path, given: Sequence[str] = ()) -> Recognized:
    """Return the settings that read a folder, opened once to be sure; UserError if nothing is recognised.

    `given`: settings data.dataset.* that the user has chosen; they are not returned again.
    """
    if not require(root, "point data.root at the folder of the images").is_dir():
        raise UserError(f"data.root={root}: it is a file; point data.root at its folder")
    named = _named_datasets()
    if not given and (options := [option for option, looks_like in named if looks_like(root)]):
        more = f" (there is {' and '.join(options[1:])} too: choose it by data=...)" if options[1:] else ""
        return Recognized(f"the data set {options[0]}{more}", [f"data={options[0]}"])
    reasons: list[tuple[list[str], str]] = []
    keys = {key_of(word) for word in given}
    candidates = [[word for word in words if key_of(word) not in keys] for words in _candidates(root)]
    for problems in (nullcontext, collect_problems):  # files are missing, if nothing fits without problems
        for words in candidates:
            with problems():
                try:
                    layout = _open(root, words, given)
                except UserError as error:
                    reasons.append((words, str(error)))
                    continue
                inside = [folder for folder in layout.image.parents if folder.is_relative_to(root) and folder != root]
                if not given and (found := _places(reversed(inside), named)):
                    raise UserError(f"data.root={root}: {found}")
                return _with_classes(root, layout, given)
    raise UserError(f"data.root={root}: {_explain(root, reasons, named)}")


def _explain(root: Path, reasons: Sequence[tuple[list[str], str]], named: Sequence[_Named]) -> str:
    """Return the error message for a folder that is not recognised: its contents and the likeliest reason."""
    images, annotations = count_images(root), find_annotations(root)
    there = ", ".join(f"{folder} ({count} images)" for folder, count in sorted(images.items())[:5]) or "no image"
    if others := annotations or find_json(root):
        there += f" and {', '.join('labelme files' if path == '.' else path for path in others[:2])}"
    likely = [text for words, text in reasons if any(SPLIT in word for word in words) or " has no " in text]
    likely += [reasons[-1][1]] * (bool(annotations) or "val_ratio" in reasons[-1][1])
    # The folder may be one of those in a data set, or hold one.
    places = _places([*_below(root), *root.absolute().parents[:2]], named)
    return "; ".join(
        [f"{there}, and no layout that is recognised: {KNOWN}", *likely[:1], *([places] if places else [])]
    )


def _named_datasets() -> list[_Named]:
    """Return the options of data= that know their data set's layout, one of each class."""
    found: dict[str, _Named] = {}
    for path in sorted(path for path in schema.yaml_files() if path.parent.name == "data"):
        target = re.search(r"^  _target_: (\S+)", path.read_text("utf-8"), re.MULTILINE)
        with suppress(ImportError, AttributeError, ValueError):  # of a user's own dataset
            if target and target[1] not in found:
                found[target[1]] = _Named(path.stem, get_method(f"{target[1]}.looks_like"))
    return [*found.values()]


def _below(root: Path) -> Iterator[Path]:
    """Yield the folders below the root in which data sets are searched for."""
    for folder, inner, _ in islice(os.walk(root, followlinks=True), MOST_FOLDERS):
        path = Path(folder)
        is_deep = len(path.relative_to(root).parts) >= DEPTH
        inner[:] = [] if is_deep else sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        yield path


def _places(folders: Iterable[Path], named: Sequence[_Named]) -> str:
    """Return which data sets are in which of the folders, the first of each, and what to type; "" if there are none."""
    found: dict[str, Path] = {}
    for folder in folders:
        for option, looks_like in named:
            if option not in found and looks_like(folder):
                found[option] = folder
    return "; ".join(f"the data set {option} is in {path}, type data.root={path}" for option, path in found.items())


def _candidates(root: Path) -> Iterator[list[str]]:
    """Yield the settings of paths and splits that may be right, the likeliest first."""
    yield []
    lists = [split_words(setting) for setting in find_split_lists(root)]
    yield from map(_words, [*map(str, find_layouts(root, True)), *find_shared_folders(root, True)])
    all_images = [*map(str, find_layouts(root, False)), *find_shared_folders(root, False)]
    for splits in lists:
        yield splits  # of pairs, or of names in images and masks
        yield from ([*_words(layout), *splits] for layout in all_images)
    paths = find_annotations(root)
    patterns = list(dict.fromkeys(path for path in map(split_name, paths) if SPLIT in path))
    yield from ([f"{_PREFIX}annotations={path}"] for path in patterns)
    for path in paths:
        yield from ([f"{_PREFIX}annotations={path}", *splits] for splits in lists)
    for ratio in (f"{_PREFIX}val_ratio={share}" for share in (0.2, 0.5)):  # of few images 0.2 may be none
        yield [ratio]
        yield from ([*_words(layout), ratio] for layout in _not_of_splits(all_images))
        yield from ([f"{_PREFIX}annotations={path}", ratio] for path in _not_of_splits(paths))


def _not_of_splits(paths: Sequence[str]) -> list[str]:
    """Return the paths that val_ratio may divide: not `test/images` where there is also `train/images`."""
    own = [path for path in paths if len(kinds_of_splits(path)) < 2]  # not images of one split with masks of another
    counts = Counter(map(split_name, own))
    return [path for path in own if SPLIT not in split_name(path) or counts[split_name(path)] == 1]


class _Layout(NamedTuple):
    settings: list[str]
    source: MaskSource
    splits: tuple[str, str]
    """Names of the training and the validation split."""
    image: Path = Path()
    """Path of the first training image."""

    def open(self, root: Path, more: Sequence[str]) -> list[SegmentationDataset]:
        return [Folder(root, split, **_arguments([*self.settings, *more])) for split in self.splits]


def _open(root: Path, words: list[str], given: Sequence[str]) -> _Layout:
    """Return the layout that settings describe; UserError if there is none, or a split cannot be opened."""
    arguments = _arguments([*words, *given])
    by_split = arguments.get("splits") is None and arguments.get("val_ratio") is None
    files = {name: value for name, value in arguments.items() if name in FolderFiles._fields}
    source = open_masks(root, "train", FolderFiles(**files, by_split=by_split, is_listed="splits" in arguments))
    names = list(arguments["splits"]) if "splits" in arguments else source.splits if by_split else ("train", "val")
    train, val = _choose(names, "train"), _choose(names, "val") or _choose(names, "test")
    if by_split and [*names] == [train]:
        return _open(root, _words(source.divide()), given)
    if not train or not val:
        lacking = "training" if not train else "validation"
        raise UserError(f"the splits below {root} are {', '.join(sorted(names))}: none is for {lacking}")
    if isinstance(source, Annotations) and "annotations" not in arguments:
        words = [f"{_PREFIX}annotations={source.path}", *words]
    layout = _Layout(words, source, (train, val))
    needs_classes = isinstance(source, MaskFolders) and "classes" not in arguments
    opened = layout.open(root, [TWO_CLASSES, *given] if needs_classes else given)
    return layout._replace(image=opened[0].samples[0].image)


def _with_classes(root: Path, layout: _Layout, given: Sequence[str]) -> Recognized:
    """Return the settings of a layout, its classes and splits; UserError if the masks' values are no classes."""
    is_given = any(word.startswith(f"{_PREFIX}classes=") for word in given)
    classes, what = [], "images and masks"
    if isinstance(layout.source, Annotations):
        names = layout.open(root, given)[0].classes
        kind = "COCO annotations" if isinstance(layout.source, Coco) else "labelme's annotations"
        what = f"{kind} in {layout.source.path}, with the classes {', '.join(names[:8])}{', ...' * (len(names) > 8)}"
        if isinstance(layout.source, Labelme) and not is_given:  # labels that are added later change no class
            classes = [f"{_PREFIX}classes=[{','.join(map(typed, names))}]"]
    elif not is_given:
        classes, where = propose_classes(root, lambda more: layout.open(root, [*more, *given]))
        what += f", {where}"
    datasets = layout.open(root, [*classes, *given])
    sizes = ", ".join(f"{len(each)} images of {each.split}" for each in datasets)
    kinds = zip(("train", "val"), layout.splits, strict=True)
    splits = [f"data.{kind}_split={name}" for kind, name in kinds if name != kind]
    return Recognized(f"{what}; {sizes}", ["data=folder", *layout.settings, *classes, *splits])


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
    """Return a name, quoted where Hydra's override grammar needs it, for a list on the command line."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w\-. ]*", name) and name.lower() not in ("null", "true", "false", "nan", "inf")
    return name if is_plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
