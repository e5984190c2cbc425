"""Folder: a dataset of images and masks of the user, described in YAML."""

import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.class_files import ClassFile, find_class_files, read_class_file
from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    INVALID_LINE,
    MASK_SUFFIXES,
    MISSING_FILE,
    Sample,
    list_files,
    pair,
    report_problem,
    report_unpaired,
    require,
    to_nfc,
)
from segframe.data.label_map import IGNORE, Palette, voc_palette
from segframe.data.split_lists import (
    LINE_FORMAT,
    parse_name,
    parse_pairs,
    read_numbered_lines,
    split_at_separators,
)
from segframe.data.transforms import Transform
from segframe.errors import UserError

_IMAGES = "set data.dataset.images to the folder of the images, below data.root"
_MASKS = "set data.dataset.masks to the folder of the masks, below data.root"


class Folder(SegmentationDataset):
    """Images and masks of the same names in two folders under `root`.

    The splits are defined by one of: text files listed in `splits` ({train: train.txt, ...}; a line is a name, or an
    image and a mask below root); `val_ratio`, the share of images chosen for validation by a hash of their names, so
    that added files do not change the split of others; sub-folders such as images/train and masks/train.

    `mask_suffix`: end of the masks' names (x_mask.png). `classes`: list of names, or path of a text file with one per
    line, or of a tool's file, see class_files. `palette`: list of [r, g, b], by which masks saved as RGB are read, or
    "voc"; None: the colours of the file of classes, or VOC's for pictures only. `label_map`: mask values and colours
    ("#rrggbb") -> class indices, class names or "ignore", see LabelTable.
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
        classes: str | Sequence[str] | None = None,
        palette: str | Sequence[Sequence[int]] | None = None,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        splits: Mapping[str, str] | None = None,
        val_ratio: float | None = None,
        label_map: Mapping[int | str, int | str] | None = None,
    ) -> None:
        top = require(Path(root).expanduser(), "point data.root at the folder that holds images and masks")
        self.images, self.masks, self.mask_suffix = top / images, top / masks, mask_suffix
        listed = _list_classes(classes, top)
        self.classes = _check_names(listed.names)
        colours = palette if palette is not None else listed.palette
        self.palette = _parse_palette(colours, len(self.classes))
        self.palette_is_declared = colours is not None
        self.label_map = {**listed.label_map, **(label_map or {})}
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
        """Return the samples of the split, sorted by name or as listed."""
        below = "" if self.lists or self.val_ratio else self.split
        image_folder, mask_folder = self.images / below, self.masks / below
        images = list_files(image_folder, IMAGE_SUFFIXES, _IMAGES)
        suffixed = list_files(mask_folder, MASK_SUFFIXES, _MASKS)
        suffix = to_nfc(self.mask_suffix)
        masks = {name.removesuffix(suffix): path for name, path in suffixed.items() if name.endswith(suffix)}
        if image_folder.resolve() == mask_folder.resolve():
            images = {stem: path for stem, path in images.items() if path not in masks.values()}
        report_unpaired(images, masks, mask_folder)
        if self.lists:
            lines = read_numbered_lines(
                self.lists[self.split], "data.dataset.splits names the text files below data.root"
            )
            samples = [sample for number, line in lines for sample in self._parse_line(number, line, images, masks)]
            if not samples:  # only if problems are collected
                raise UserError(f"no line of {self.lists[self.split]} is an existing image and mask: {LINE_FORMAT}")
            return samples
        if not images:
            raise UserError(f"{image_folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): {self.source}")
        names = list(images) if self.val_ratio is None else self._choose_by_hash(images, self.val_ratio)
        return pair(names, images, masks, str(image_folder))

    def _choose_by_hash(self, images: Mapping[str, Path], val_ratio: float) -> list[str]:
        # The hash of the file's name in its own Unicode form, so that files stay in their split.
        names = [
            name for name, path in images.items() if (_hash_to_unit(path.stem) < val_ratio) == (self.split == "val")
        ]
        if not names:
            raise UserError(
                f"data.dataset.val_ratio={val_ratio} leaves {self.split} none of the {len(images)} images in "
                f"{self.images}: set it {'higher' if self.split == 'val' else 'lower'}"
            )
        return names

    def _parse_line(
        self, number: int, line: str, images: Mapping[str, Path], masks: Mapping[str, Path]
    ) -> list[Sample]:
        where = str(self.lists[self.split])
        if (name := to_nfc(line)) in images:
            return pair([name], images, masks, where)
        pairs = [(self._path(image), self._path(mask)) for image, mask in parse_pairs(line)]
        if pairs:
            # A space may belong to a name: prefer the pair that exists.
            existing = (paths for paths in pairs if len(pairs) > 1 and all(path.exists() for path in paths))
            image, mask = next(existing, pairs[0])
            missing = [path for path in (image, mask) if not path.exists()]
            if missing and report_problem(MISSING_FILE, missing):
                return []
            return [Sample(to_nfc(image.stem), require(image, f"{where} lists it"), require(mask, f"{where} lists it"))]
        name, folders = parse_name(line), str(Path(line).parent)
        # A line with separators is a name only if an image has it and its folders contain no name of another image.
        if any(split_at_separators(line)) and (
            name not in images or any(parse_name(left) in images for left, _ in split_at_separators(folders))
        ):
            context = f"{where}, line {number}, {line[:200]!r}"
            if report_problem(INVALID_LINE, [context]):
                return []
            raise UserError(f"{context} is neither the name of an image nor an image and a mask: {LINE_FORMAT}")
        return pair([name], images, masks, where)

    def _path(self, listed: str) -> Path:
        """Return the path below root, in the Unicode form (NFC or NFD) of the existing file."""
        if listed.isascii():
            return self.root / listed
        paths = [self.root / listed, *(self.root / unicodedata.normalize(form, listed) for form in ("NFC", "NFD"))]
        return next((path for path in paths if path.exists()), paths[0])


def _list_classes(classes: str | Sequence[str] | None, top: Path) -> ClassFile:
    if isinstance(classes, str):
        return read_class_file(top / classes if (top / classes).exists() else Path(classes))
    if classes is not None:
        return ClassFile(list(classes))
    files = "".join(f" or data.dataset.classes={path.relative_to(top)}" for path in find_class_files(top)[:1])
    raise UserError(f"data.dataset.classes must be given: data.dataset.classes=[background,cat,...]{files}")


def _check_names(classes: Sequence[str]) -> tuple[str, ...]:
    for name in classes:
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise UserError(
                f"data.dataset.classes holds {name!r}, which is no name: give each class a name, in quotes if YAML "
                "reads it as something else"
            )
    names = tuple(str(name) for name in classes)
    if IGNORE in names:
        raise UserError(
            f"data.dataset.classes holds {IGNORE!r}, which is the void in data.dataset.label_map: give the class "
            f"another name, or leave it out and take its values to {IGNORE} there"
        )
    if len(names) == 1:
        raise UserError(
            f"data.dataset.classes=[{names[0]}]: it names one class, and pixels without it are a class too; set "
            f"data.dataset.classes=[background,{names[0]}]"
        )
    if not 1 < len(names) < IGNORE_INDEX or len(set(names)) < len(names):
        raise UserError(
            f"data.dataset.classes holds {len(names)} names, {len(set(names))} of them different: "
            "give 2 to 254 different names"
        )
    return names


def _parse_palette(palette: str | Sequence[Sequence[int]] | None, num_classes: int) -> Palette:
    if palette in (None, "voc"):
        return voc_palette(num_classes)
    if isinstance(palette, str):
        raise UserError(f"data.dataset.palette={palette}: give a list with one [r, g, b] per class, or voc")
    colours = [tuple(colour) for colour in palette]
    is_valid = all(len(colour) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in colour) for colour in colours)
    if len(colours) != num_classes or not is_valid:
        raise UserError(
            f"data.dataset.palette has {len(colours)} colours for {num_classes} classes: "
            "give one [r, g, b] in 0..255 each"
        )
    return tuple((red, green, blue) for red, green, blue in colours)


def _hash_to_unit(name: str) -> float:
    return int.from_bytes(sha256(name.encode()).digest()[:8]) / 2**64
