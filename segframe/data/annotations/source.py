"""Annotations of named categories as the masks of a Folder."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from segframe import IGNORE_INDEX
from segframe.data.annotations.image_files import ImageFiles
from segframe.data.class_files import ClassFile
from segframe.data.label_map import IGNORE, OTHER, parse_target
from segframe.data.layouts import SPLIT, split_paths
from segframe.data.mask_sources import LabelMap, MaskSource
from segframe.errors import UserError

VOID_LABELS = ("__ignore__", IGNORE)
"""Labels of void; the first is labelme's."""


def is_background(name: str) -> bool:
    """Whether a class or category is what no annotation covers; labelme writes _background_."""
    return name.strip("_").lower() == "background"


class Annotations(MaskSource):
    """Base of the sources that fill regions of named categories.

    Pixels without an annotation, and those of a category that is no class, are the class `background`; they are void if
    no class is called so. `label_map`: category -> class index, class name or "ignore".
    """

    has_raw_values = False

    exists: Callable[[str], bool]
    """Whether a path is such a file or folder."""

    def __init__(self, root: Path, split: str, path: str, images: str | None, by_split: bool) -> None:
        """`path`, `images`: below root, maybe with {split}; `by_split`: each split has annotations of its own."""
        self.root, self.split, self.path, self.by_split = root, split, path, by_split
        self.advice = f"set data.dataset.annotations to that of the images, now {path}"
        self.image_files = ImageFiles(root / (images or "").replace(SPLIT, split), split)

    @property
    @abstractmethod
    def categories(self) -> list[str]:
        """The names of the categories, in the order of the classes."""

    @property
    def pattern(self) -> str:
        """The path with {split}, if each split has annotations of its own."""
        return self.path

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose annotations exist; UserError if all are in one place."""
        if SPLIT not in self.pattern:
            raise UserError(
                f"data.dataset.annotations={self.path} is for all splits: divide it by data.dataset.val_ratio=0.2 or "
                f"data.dataset.splits={{train: train.txt, val: val.txt}}, or name others by {SPLIT} in the path"
            )
        found = tuple(split_paths(self.root / self.pattern, self.exists))
        if not found:
            raise UserError(f"data.dataset.annotations={self.pattern}: there is no such path below {self.root}")
        return found

    @property
    def paths_of_split(self) -> str:
        return f"data.dataset.annotations={self.path}" if SPLIT in self.path else ""

    @property
    def place(self) -> Path:
        path = self.pattern if self.by_split else self.path
        return self.root / path.replace(SPLIT, self.split)

    def divide(self) -> str:
        only = self.pattern.replace(SPLIT, self.splits[0])
        return f"data.dataset.annotations={only} data.dataset.val_ratio=0.2"

    def explain_missing(self, name: str) -> str:
        return f"{self.place} has no annotations of it; take the line out, or annotate the image"

    def find_classes(self) -> ClassFile:
        """Return background and the categories."""
        names = dict.fromkeys(self.categories)
        background = next((name for name in names if is_background(name)), "background")
        others = [name for name in names if name not in VOID_LABELS and not is_background(name)]
        if not others:
            raise UserError(f"{self.place} holds no annotation of a category: annotate images, or set another path")
        return ClassFile([background, *others])

    def use_classes(self, classes: Sequence[str], label_map: LabelMap) -> LabelMap:
        """Set the classes and those of further categories; UserError if no category can be any of them."""
        background = [k for k, name in enumerate(classes) if is_background(name)]
        self.unlabelled = background[0] if background else IGNORE_INDEX
        mapped = {str(name): parse_target(target, classes) for name, target in label_map.items()}
        self.other = mapped.pop(OTHER, None)
        self.values = {
            **dict.fromkeys(VOID_LABELS, IGNORE_INDEX),
            **{name: k for k, name in enumerate(classes)},
            **mapped,
        }
        self.settings = (sorted(self.values.items()), self.unlabelled, self.other)
        self.check_names()
        return {IGNORE_INDEX: IGNORE}

    def check_names(self) -> None:
        """UserError if a class or a key of the label map is no category, but like one that is neither."""
        known = self.categories
        unused = [name for name in known if name not in self.values]
        for name in (name for name in self.values if name not in known):
            if close := get_close_matches(name, unused, 1):
                raise UserError(f"{name!r} is no category of {self.place}: did you mean {close[0]!r}?")
        if known and len(unused) == len(known):
            raise UserError(f"no class is a category of {self.place}: it has {', '.join(known[:20])}")

    def value(self, name: str) -> int | None:
        """Return the class of a category, void = 255; None if it is no class and label_map has no `other`."""
        if name in self.values:
            return self.values[name]
        return self.unlabelled if is_background(name) else self.other
