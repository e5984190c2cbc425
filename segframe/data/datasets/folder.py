"""Folder: a dataset of images and masks of the user, described in YAML."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.binary_masks import threshold
from segframe.data.class_files import ClassFile, find_class_files, read_class_file
from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    JPEG_MASK,
    JPEG_SUFFIXES,
    MASK_SUFFIXES,
    UNUSED_MASK,
    Files,
    Sample,
    hash_to_unit,
    list_files,
    pair,
    report_problem,
    require,
)
from segframe.data.label_map import IGNORE, Palette, voc_palette
from segframe.data.layouts import (
    SPLIT,
    Layout,
    choose_layout,
    explain_missing_mask,
    log_once,
    match_names,
    split_folders,
)
from segframe.data.split_lists import read_samples
from segframe.data.transforms import Transform
from segframe.errors import UserError


class Folder(SegmentationDataset):
    """Images and masks of the same names in two folders under `root`.

    The splits are defined by one of: text files listed in `splits` ({train: train.txt, ...}; a line is a name, or an
    image and a mask below root); `val_ratio`, the share of images chosen for validation by a hash of their names, so
    that added files do not change the split of others; folders such as images/train and masks/train.

    `images`, `masks`: folders below root, in which {split} stands for the split; without it the split is a sub-folder.
    None: images and masks, or else the only two folders that look like them. `image_suffix`, `mask_suffix`: ends of the
    names (_mask) or of the files (_mask.png); "": none, or else those that most of the names have.

    `classes`: list of names, or path of a text file with one per line, or of a tool's file, see class_files. `palette`:
    list of [r, g, b], by which masks saved as RGB are read, or "voc"; None: the colours of the file of classes, or for
    pictures only VOC's. `label_map`: mask values and colours ("#rrggbb") -> class indices, class names or "ignore", see
    LabelTable. `binary`: whether masks are black and white, read by a threshold; None: JPEG masks of two classes are.
    """

    source = "put them into images/train, masks/train, images/val, masks/val, or set data.dataset.images and masks"
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
        images: str | None = None,
        masks: str | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
        splits: Mapping[str, str] | None = None,
        val_ratio: float | None = None,
        label_map: Mapping[int | str, int | str] | None = None,
        binary: bool | None = None,
    ) -> None:
        self.root = require(Path(root).expanduser(), "point data.root at the folder that holds images and masks")
        self.folders = images, masks
        self.image_suffix, self.mask_suffix = image_suffix, mask_suffix
        listed = _list_classes(classes, self.root)
        self.classes = _check_names(listed.names)
        colours = palette if palette is not None else listed.palette
        self.palette = _parse_palette(colours, len(self.classes))
        self.palette_is_declared = colours is not None
        self.label_map = {**listed.label_map, **(label_map or {})}
        self.can_be_binary = len(self.classes) == 2 and not self.label_map
        if binary and not self.can_be_binary:
            raise UserError("data.dataset.binary=true: it needs two data.dataset.classes and no label_map")
        self.binary = binary
        self.lists = {name: self.root / path for name, path in (splits or {}).items()}
        self.val_ratio = val_ratio
        self.splits = self._splits()
        super().__init__(self.root, split, transform, seed)

    @cached_property
    def layout(self) -> Layout:
        """The folders of images and masks, below root."""
        return choose_layout(self.root, *self.folders, by_split=not self.lists and self.val_ratio is None)

    def _splits(self) -> tuple[str, ...]:
        if self.lists and self.val_ratio is not None:
            raise UserError("both data.dataset.splits and data.dataset.val_ratio are set: choose one")
        if self.lists:
            return tuple(self.lists)
        if self.val_ratio is None:
            masks = split_folders(self.root / self.layout.masks).values()  # {split} fits train_masks too
            found = split_folders(self.root / self.layout.images)
            return tuple(name for name, folder in found.items() if folder not in masks or len({*self.layout}) == 1)
        if not 0 < self.val_ratio < 1:
            raise UserError(f"data.dataset.val_ratio is {self.val_ratio}: give a share between 0 and 1, such as 0.2")
        if SPLIT in "".join(self.layout):
            raise UserError(f"data.dataset.val_ratio={self.val_ratio}: with {self.layout} it must be null")
        return "train", "val"

    def advise_on_splits(self, split: str) -> str:
        """Return the setting that chooses another split, or divides the only one."""
        if len(self.splits) == 1 and split != "train" and not self.lists:
            only = Layout(*(path.replace(SPLIT, self.splits[0]) for path in self.layout))
            return f"type {only} data.dataset.val_ratio=0.2"
        return super().advise_on_splits(split)

    def find(self) -> list[Sample]:
        """Return the samples of the split, sorted by name or as listed."""
        if self.lists:
            advice = "data.dataset.splits names the text files below data.root"
            return read_samples(self.lists[self.split], advice, self.root, lambda: self._files, self._explain_missing)
        images, masks = self._files
        folder = self._folder(self.layout.images)
        if not images:
            raise UserError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): {self.source}")
        if (SPLIT in self.layout.images) == (SPLIT in self.layout.masks):  # else the others belong to other splits
            report_problem(UNUSED_MASK, (path for name, path in masks.items() if name not in images))
        names = list(images) if self.val_ratio is None else self._choose_by_hash(images, self.val_ratio)
        return pair(names, images, masks, str(folder), self._explain_missing)

    def _folder(self, path: str) -> Path:
        return self.root / path.replace(SPLIT, self.split)

    @cached_property
    def _files(self) -> tuple[Files, Files]:
        # Images and masks by name.
        image_folder, mask_folder = map(self._folder, self.layout)
        is_shared = image_folder.resolve() == mask_folder.resolve()
        if is_shared and not self.image_suffix and not self.mask_suffix:
            if self.lists:  # of pairs
                return {}, {}
            raise UserError(
                f"data.dataset.images={self.layout.images}: it holds masks too; type data.dataset.mask_suffix=_mask "
                "if the mask of x.jpg is x_mask.png, or image_suffix=.jpg mask_suffix=.png if it is x.png"
            )
        images = list_files(image_folder, IMAGE_SUFFIXES, self.source, self.image_suffix)
        masks = list_files(mask_folder, MASK_SUFFIXES, self.source, self.mask_suffix)
        if not images.keys() <= masks.keys():
            jpegs = list_files(mask_folder, JPEG_SUFFIXES, self.source, self.mask_suffix)
            if self.can_be_binary and self.binary is not False:
                masks = {**jpegs, **masks}
                log_once(f"JPEG masks in {mask_folder} are read as black and white, as by data.dataset.binary=true")
            elif not is_shared:
                report_problem(JPEG_MASK, jpegs.values())
                if jpegs and not masks:
                    self.source = "JPEG changes the values; save the masks as PNG"
        if is_shared:
            used = {*masks.values()}
            return {name: path for name, path in images.items() if path not in used}, masks
        return match_names(images, masks, self.image_suffix, self.mask_suffix, mask_folder)

    @classmethod
    def mask_values(cls, classes: Sequence[str], settings: Mapping[str, Any]) -> list[int]:
        """Return the value of each class in the masks, see SegmentationDataset; 0 and 255 for black and white ones."""
        if isinstance(settings.get("classes"), str):
            raise UserError(f"data.dataset.classes={settings['classes']}: the masks' values are in that file")
        return [0, 255] if settings.get("binary") else super().mask_values(classes, settings)

    def _explain_missing(self, name: str) -> str:
        return explain_missing_mask(f"{name}{self.mask_suffix}", self._folder(self.layout.masks), len(self.classes))

    def _choose_by_hash(self, images: Mapping[str, Path], val_ratio: float) -> list[str]:
        # The hash of the file's name in its own Unicode form, so that files stay in their split.
        names = [
            name for name, path in images.items() if (hash_to_unit(path.stem) < val_ratio) == (self.split == "val")
        ]
        if not names:
            raise UserError(
                f"data.dataset.val_ratio={val_ratio} leaves {self.split} none of the {len(images)} images in "
                f"{self._folder(self.layout.images)}: set it {'higher' if self.split == 'val' else 'lower'}"
            )
        return names

    def load_mask(self, path: Path) -> np.ndarray:
        """Return the raw values of a mask, see SegmentationDataset; 0 and 1 for a black and white one."""
        raw = super().load_mask(path)
        is_jpeg = path.suffix.lower() in JPEG_SUFFIXES and self.can_be_binary
        return threshold(raw, path) if self.binary or (self.binary is None and is_jpeg) else raw


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
