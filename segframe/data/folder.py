"""Folder: anyone's images and masks, described in YAML."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.files import (
    IMAGE_SUFFIXES,
    LOST,
    MASK_SUFFIXES,
    Sample,
    listing,
    note,
    note_strays,
    pair,
    read_list,
    require,
)
from segframe.data.palettes import Palette, voc_palette
from segframe.data.transforms import Transform
from segframe.errors import UserError


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
            raise UserError("both splits and val_ratio are set: choose one")
        if self.lists:
            return tuple(self.lists)
        if self.val_ratio is not None:
            if not 0 < self.val_ratio < 1:
                raise UserError(f"val_ratio is {self.val_ratio}: give a share between 0 and 1, such as 0.2")
            return "train", "val"
        folders = require(self.images, "set `images` to the folder of the images, below data.root").iterdir()
        if names := tuple(sorted(path.name for path in folders if path.is_dir() and not path.name.startswith("."))):
            return names
        raise UserError(f"{self.images} has no sub-folders train and val: make them, or set splits or val_ratio")

    def find(self) -> list[Sample]:
        """Return the split's samples, sorted by name or as listed."""
        below = "" if self.lists or self.val_ratio else self.split
        image_folder, mask_folder = self.images / below, self.masks / below
        images = listing(image_folder, IMAGE_SUFFIXES, "set `images` to the folder of the images, below data.root")
        suffixed = listing(mask_folder, MASK_SUFFIXES, "set `masks` to the folder of the masks, below data.root")
        masks = {
            stem.removesuffix(self.mask_suffix): path
            for stem, path in suffixed.items()
            if stem.endswith(self.mask_suffix)
        }
        if image_folder.resolve() == mask_folder.resolve():
            images = {stem: path for stem, path in images.items() if path not in masks.values()}
        note_strays(images, masks, mask_folder)
        if self.lists:
            lines = read_list(self.lists[self.split], "splits names the text files below data.root")
            return [sample for line in lines for sample in self._listed(line, images, masks)]
        names = list(images)
        if self.val_ratio is not None:
            names = [name for name in names if (_share(name) < self.val_ratio) == (self.split == "val")]
        return pair(names, images, masks, str(image_folder))

    def _listed(self, line: str, images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[Sample]:
        where = str(self.lists[self.split])
        if line in images:
            return pair([line], images, masks, where)
        match [self.root.joinpath(*Path(part).parts) for part in line.split()]:
            case [image, mask] if image.suffix.lower() in IMAGE_SUFFIXES:
                lost = [path for path in (image, mask) if not path.exists()]
                if lost and note(LOST, lost):
                    return []
                return [Sample(image.stem, require(image, f"{where} lists it"), require(mask, f"{where} lists it"))]
        name = Path(line).name
        stem = Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name
        return pair([stem], images, masks, where)


def _class_names(classes: str | Sequence[str], top: Path) -> tuple[str, ...]:
    if isinstance(classes, str):
        path = top / classes if (top / classes).exists() else Path(classes)
        classes = read_list(path, "classes is a list of names, or a text file with one name per line")
    names = tuple(str(name) for name in classes)
    if not 1 < len(names) < IGNORE_INDEX or len(set(names)) < len(names):
        raise UserError(
            f"classes holds {len(names)} names, {len(set(names))} of them different: give 2 to 254, no twins"
        )
    return names


def _colours(palette: Sequence[Sequence[int]] | None, num_classes: int) -> Palette:
    if palette is None:
        return voc_palette(num_classes)
    colours = [tuple(colour) for colour in palette]
    right = all(len(colour) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in colour) for colour in colours)
    if len(colours) != num_classes or not right:
        raise UserError(
            f"palette has {len(colours)} colours for {num_classes} classes: give one [r, g, b] in 0..255 each"
        )
    return tuple((red, green, blue) for red, green, blue in colours)


def _share(name: str) -> float:
    return int.from_bytes(sha256(name.encode()).digest()[:8]) / 2**64
