"""Folder: a dataset of images and masks or annotations of the user, described in YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.annotations import open_masks
from segframe.data.base import SegmentationDataset
from segframe.data.class_files import ClassFile, read_class_file
from segframe.data.file_listing import Files, Sample, hash_to_unit, pair, require
from segframe.data.label_map import IGNORE, Palette, voc_palette
from segframe.data.mask_sources import FolderFiles
from segframe.data.split_lists import read_samples
from segframe.data.transforms import Transform
from segframe.errors import UserError


class Folder(SegmentationDataset):
    """Images and masks of the same names in two folders under `root`, or images and the annotations of a tool.

    The splits are defined by one of: text files listed in `splits` ({train: train.txt, ...}; a line is a name, or an
    image and a mask below root); `val_ratio`, the share of images chosen for validation by a hash of their names, so
    that added files do not change the split of others; folders such as images/train and masks/train.

    `images`, `masks`: folders below root, in which {split} stands for the split; without it the split is a sub-folder.
    None: images and masks, or else the only two folders that look like them. `image_suffix`, `mask_suffix`: ends of the
    names (_mask) or of the files (_mask.png); "": none, or else those that most of the names have.

    `annotations`: in place of masks, a COCO JSON file or a folder of labelme's JSON files, {split} as above, see
    segframe.data.annotations. None: no annotations, or if there are no masks the only ones below root.

    `classes`: list of names, or path of a text file with one per line or of a tool, see class_files; None: those
    of the annotations. `palette`: list of [r, g, b], by which masks saved as RGB are read, or "voc"; None: the colours
    of the file of classes, or for pictures only VOC's. `label_map`: mask values and colours ("#rrggbb"), or categories
    of annotations -> class indices, class names or "ignore", see LabelTable. `binary`: whether masks are black and
    white, read by a threshold; None: JPEG masks of two classes are.
    """

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
        annotations: str | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
        splits: Mapping[str, str] | None = None,
        val_ratio: float | None = None,
        label_map: Mapping[int | str, int | str] | None = None,
        binary: bool | None = None,
    ) -> None:
        self.root = require(Path(root).expanduser(), "point data.root at the folder that holds images and masks")
        self.split = split
        self.lists = {name: self.root / path for name, path in (splits or {}).items()}
        self.val_ratio = val_ratio
        by_split, is_listed = not self.lists and val_ratio is None, bool(self.lists)
        files = FolderFiles(images, masks, annotations, image_suffix, mask_suffix, binary, by_split, is_listed)
        self.masks = open_masks(self.root, split, files)
        self.labels_are_settings = self.masks.has_raw_values
        listed = _read_classes(classes, self.root) if classes is not None else None
        self.splits = self._splits()
        self.check_split(split)
        listed = listed or self.masks.find_classes()
        self.classes = _check_names(listed.names)
        colours = palette if palette is not None else listed.palette
        self.palette = _parse_palette(colours, len(self.classes))
        self.palette_is_declared = colours is not None and self.masks.has_raw_values
        self.label_map = self.masks.use_classes(self.classes, {**listed.label_map, **(label_map or {})})
        self.mask_settings = self.masks.settings
        super().__init__(self.root, split, transform, seed)

    @property
    def source(self) -> str:  # type: ignore[override]
        """End of the error messages about missing images or masks: what to change."""
        return self.masks.advice

    def _splits(self) -> tuple[str, ...]:
        if self.lists and self.val_ratio is not None:
            raise UserError("both data.dataset.splits and data.dataset.val_ratio are set: choose one")
        if self.lists:
            return tuple(self.lists)
        if self.val_ratio is None:
            return self.masks.splits
        if not 0 < self.val_ratio < 1:
            raise UserError(f"data.dataset.val_ratio is {self.val_ratio}: give a share between 0 and 1, such as 0.2")
        if paths := self.masks.paths_of_split:
            raise UserError(f"data.dataset.val_ratio={self.val_ratio}: with {paths} it must be null")
        return "train", "val"

    def advise_on_splits(self, split: str) -> str:
        """Return the setting that chooses another split, or divides the only one."""
        if len(self.splits) == 1 and split != "train" and not self.lists:
            return f"type {self.masks.divide()}"
        return super().advise_on_splits(split)

    def find(self) -> list[Sample]:
        """Return the samples of the split, sorted by name or as listed."""
        if self.lists:
            advice = "data.dataset.splits names the text files below data.root"
            list_files, explain = lambda: self.masks.files, self.masks.explain_missing
            return read_samples(self.lists[self.split], advice, self.root, list_files, explain)
        names = self.masks.names()
        images, masks = self.masks.files
        if self.val_ratio is not None:
            names = self._choose_by_hash(names, images, self.val_ratio)
        return pair(names, images, masks, str(self.masks.place), self.masks.explain_missing)

    @classmethod
    def mask_values(cls, classes: Sequence[str], settings: Mapping[str, Any]) -> list[int]:
        """Return the value of each class in the masks, see SegmentationDataset; 0 and 255 for black and white ones."""
        if isinstance(settings.get("classes"), str):
            raise UserError(f"data.dataset.classes={settings['classes']}: the masks' values are in that file")
        if settings.get("annotations"):
            raise UserError(f"data.dataset.annotations={settings['annotations']}: annotations have no mask values")
        return [0, 255] if settings.get("binary") else super().mask_values(classes, settings)

    def _choose_by_hash(self, names: Sequence[str], images: Files, val_ratio: float) -> list[str]:
        # The hash of the file's name in its own Unicode form, so that files stay in their split.
        is_val = self.split == "val"
        chosen = [n for n in names if n not in images or (hash_to_unit(images[n].stem) < val_ratio) == is_val]
        if not chosen:
            raise UserError(
                f"data.dataset.val_ratio={val_ratio} leaves {self.split} none of the {len(names)} images in "
                f"{self.masks.place}: set it {'higher' if is_val else 'lower'}"
            )
        return chosen

    def raw_mask(self, sample: Sample) -> np.ndarray:
        """Return the raw values of a mask, see MaskSource."""
        return self.masks.read(sample)

    def describe_mask(self, sample: Sample) -> str:
        """Return where a mask is, for messages."""
        return self.masks.describe(sample)

    def mask_stamp(self, sample: Sample) -> tuple[int, int]:
        """Return two numbers that change with a mask."""
        return self.masks.stamp(sample)


def _read_classes(classes: str | Sequence[str], top: Path) -> ClassFile:
    if isinstance(classes, str):
        return read_class_file(top / classes if (top / classes).exists() else Path(classes))
    return ClassFile(list(classes))


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
