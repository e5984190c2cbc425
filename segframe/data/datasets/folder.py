"""Folder: anyone's images and masks, described in YAML."""

import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    LOST,
    MASK_SUFFIXES,
    UNREADABLE,
    Sample,
    composed,
    listing,
    note,
    note_strays,
    pair,
    require,
)
from segframe.data.label_map import IGNORE, Palette, voc_palette
from segframe.data.split_lists import LINE, cuts, name_in, numbered_lines, pairs_in, read_list
from segframe.data.transforms import Transform
from segframe.errors import UserError

_IMAGES = "set data.dataset.images to the folder of the images, below data.root"
_MASKS = "set data.dataset.masks to the folder of the masks, below data.root"


class Folder(SegmentationDataset):
    """Images and masks that share their names, in two folders under `root`.

    The splits are, in this order: the text files that `splits` names ({train: train.txt, ...}; a line is a name, or an
    image and a mask below root); `val_ratio` of the images chosen by a hash of their names, so that new files move none
    of the old ones; sub-folders such as images/train and masks/train. Masks may end in `mask_suffix` (x_mask.png).
    `classes` is a list of names or the path of a text file with one per line; `palette` is a list of [r, g, b] or None
    for VOC's, and what masks saved as RGB are read by; `label_map` takes mask values and colours ("#rrggbb") to class
    indices, class names or "ignore", values it does not list stay what they are where that is unambiguous, and its key
    `other` catches them all.
    """

    source = "see the layouts in configs/data/folder.yaml"
    labels_are_settings = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform | None = None,
        seed: int = 0,
        *,
        classes: str | Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        splits: Mapping[str, str] | None = None,
        val_ratio: float | None = None,
        label_map: Mapping[int | str, int | str] | None = None,
    ) -> None:
        top = require(Path(root).expanduser(), "point data.root at the folder that holds images and masks")
        self.images, self.masks, self.mask_suffix = top / images, top / masks, mask_suffix
        self.classes = _class_names(classes, top)
        self.palette = _colours(palette, len(self.classes))
        self.label_map = label_map or {}
        self.lists = {name: top / path for name, path in (splits or {}).items()}
        self.val_ratio = val_ratio
        self.splits = self._splits()
        super().__init__(top, split, transform, seed)

    def _splits(self) -> tuple[str, ...]:
        if self.lists and self.val_ratio is not None:
            raise UserError("both data.dataset.splits and data.dataset.val_ratio are set: choose one")
        if self.lists:
            return tuple(self.lists)
        if self.val_ratio is not None:
            if not 0 < self.val_ratio < 1:
                raise UserError(
                    f"data.dataset.val_ratio is {self.val_ratio}: give a share between 0 and 1, such as 0.2"
                )
            return "train", "val"
        folders = require(self.images, _IMAGES).iterdir()
        if names := tuple(sorted(path.name for path in folders if path.is_dir() and not path.name.startswith("."))):
            return names
        raise UserError(
            f"{self.images} has no sub-folders train and val: make them, or set data.dataset.splits or "
            "data.dataset.val_ratio"
        )

    def find(self) -> list[Sample]:
        """Return the split's samples, sorted by name or as listed."""
        below = "" if self.lists or self.val_ratio else self.split
        image_folder, mask_folder = self.images / below, self.masks / below
        images = listing(image_folder, IMAGE_SUFFIXES, _IMAGES)
        suffixed = listing(mask_folder, MASK_SUFFIXES, _MASKS)
        suffix = composed(self.mask_suffix)
        masks = {name.removesuffix(suffix): path for name, path in suffixed.items() if name.endswith(suffix)}
        if image_folder.resolve() == mask_folder.resolve():
            images = {stem: path for stem, path in images.items() if path not in masks.values()}
        note_strays(images, masks, mask_folder)
        if self.lists:
            lines = numbered_lines(self.lists[self.split], "data.dataset.splits names the text files below data.root")
            samples = [sample for number, line in lines for sample in self._listed(number, line, images, masks)]
            if not samples:  # where what is wrong is noted
                raise UserError(f"no line of {self.lists[self.split]} is an image and a mask that are there: {LINE}")
            return samples
        if not images:
            raise UserError(f"{image_folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): {self.source}")
        names = list(images) if self.val_ratio is None else self._chosen(images, self.val_ratio)
        return pair(names, images, masks, str(image_folder))

    def _chosen(self, images: Mapping[str, Path], val_ratio: float) -> list[str]:
        # Of the file's own name, so that whatever is on the disk stays in its split.
        names = [name for name, path in images.items() if (_share(path.stem) < val_ratio) == (self.split == "val")]
        if not names:
            raise UserError(
                f"data.dataset.val_ratio={val_ratio} leaves {self.split} none of the {len(images)} images in "
                f"{self.images}: set it {'higher' if self.split == 'val' else 'lower'}"
            )
        return names

    def _listed(self, number: int, line: str, images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[Sample]:
        where = str(self.lists[self.split])
        if (name := composed(line)) in images:
            return pair([name], images, masks, where)
        pairs = [(self._path(image), self._path(mask)) for image, mask in pairs_in(line)]
        if pairs:
            # A space may belong to a name: rather what is there.
            there = (paths for paths in pairs if len(pairs) > 1 and all(path.exists() for path in paths))
            image, mask = next(there, pairs[0])
            lost = [path for path in (image, mask) if not path.exists()]
            if lost and note(LOST, lost):
                return []
            return [
                Sample(composed(image.stem), require(image, f"{where} lists it"), require(mask, f"{where} lists it"))
            ]
        name, folders = name_in(line), str(Path(line).parent)
        # Several words are a name only if an image has it, and not if their folders hold the name of another file.
        if any(cuts(line)) and (name not in images or any(name_in(left) in images for left, _ in cuts(folders))):
            told = f"{where}, line {number}, {line[:200]!r}"
            if note(UNREADABLE, [told]):
                return []
            raise UserError(f"{told} is neither the name of an image nor an image and a mask: {LINE}")
        return pair([name], images, masks, where)

    def _path(self, listed: str) -> Path:
        """Return the path below root, in whichever form of Unicode its file is named."""
        if listed.isascii():
            return self.root / listed
        paths = [self.root / listed, *(self.root / unicodedata.normalize(form, listed) for form in ("NFC", "NFD"))]
        return next((path for path in paths if path.exists()), paths[0])


def _class_names(classes: str | Sequence[str], top: Path) -> tuple[str, ...]:
    if isinstance(classes, str):
        path = top / classes if (top / classes).exists() else Path(classes)
        classes = read_list(path, "data.dataset.classes is a list of names, or a text file with one name per line")
    for name in classes:
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise UserError(
                f"data.dataset.classes holds {name!r}, which is no name: give each class one, in quotes where YAML "
                "takes it for something else"
            )
    names = tuple(str(name) for name in classes)
    if IGNORE in names:
        raise UserError(
            f"data.dataset.classes holds {IGNORE!r}, which is the void in data.dataset.label_map: give the class "
            f"another name, or leave it out and take its values to {IGNORE} there"
        )
    if not 1 < len(names) < IGNORE_INDEX or len(set(names)) < len(names):
        raise UserError(
            f"data.dataset.classes holds {len(names)} names, {len(set(names))} of them different: "
            "give 2 to 254, no twins"
        )
    return names


def _colours(palette: Sequence[Sequence[int]] | None, num_classes: int) -> Palette:
    if palette is None:
        return voc_palette(num_classes)
    colours = [tuple(colour) for colour in palette]
    right = all(len(colour) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in colour) for colour in colours)
    if len(colours) != num_classes or not right:
        raise UserError(
            f"data.dataset.palette has {len(colours)} colours for {num_classes} classes: "
            "give one [r, g, b] in 0..255 each"
        )
    return tuple((red, green, blue) for red, green, blue in colours)


def _share(name: str) -> float:
    return int.from_bytes(sha256(name.encode()).digest()[:8]) / 2**64
