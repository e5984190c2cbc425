"""Sources of a Folder's masks: image files here, annotations in segframe.data.annotations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segframe.data.binary_masks import threshold
from segframe.data.class_files import ClassFile, find_class_files
from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    JPEG_MASK,
    JPEG_SUFFIXES,
    MASK_SUFFIXES,
    UNUSED_MASK,
    Files,
    Sample,
    file_stamp,
    list_files,
    report_problem,
)
from segframe.data.image_io import read_raw
from segframe.data.layouts import (
    SPLIT,
    Layout,
    choose_layout,
    explain_missing_mask,
    find_layouts,
    find_shared_folders,
    log_once,
    match_names,
    split_paths,
)
from segframe.errors import UserError

LabelMap = Mapping[int | str, int | str]

SOURCE = "put them into images/train, masks/train, images/val, masks/val, or set data.dataset.images and masks"
"""End of the error messages about missing images or masks: what to change."""


class FolderFiles(NamedTuple):
    """The settings of a Folder that say which files hold its images and masks; see there."""

    images: str | None = None
    masks: str | None = None
    annotations: str | None = None
    image_suffix: str = ""
    mask_suffix: str = ""
    binary: bool | None = None
    by_split: bool = True
    """Whether each split has files of its own."""
    is_listed: bool = False
    """Whether text files list the samples of the splits."""


class MaskSource(ABC):
    """The images and masks of one split of a Folder, and how a mask is read."""

    advice = SOURCE
    """End of the error messages about missing images or masks: what to change."""
    has_raw_values = True
    """Whether users choose the values and colours of masks, so that they can be mapped to classes."""
    settings: tuple[object, ...] = ()
    """Settings that change masks, besides the classes and their values."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that have files of their own."""

    @property
    @abstractmethod
    def paths_of_split(self) -> str:
        """The settings of paths with {split}; "" if all splits share their files."""

    @property
    @abstractmethod
    def place(self) -> Path:
        """The folder that holds the images, or the file that lists them."""

    @property
    @abstractmethod
    def files(self) -> tuple[Files, Files]:
        """Images, and the files that hold their masks, by name."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the split's images, in order; UserError if there are none."""

    @abstractmethod
    def find_classes(self) -> ClassFile:
        """Return the classes if none are set; UserError if they must be."""

    @abstractmethod
    def use_classes(self, classes: Sequence[str], label_map: LabelMap) -> LabelMap:
        """Set the classes, and what else becomes one of them; return the label map of the masks that are then read."""

    @abstractmethod
    def read(self, sample: Sample) -> np.ndarray:
        """Return the raw values of a mask, see SegmentationDataset.raw_mask."""

    def stamp(self, sample: Sample) -> tuple[int, int]:
        """Return two numbers that change with the mask: size and time of modification of its file."""
        return file_stamp(sample.mask)

    def describe(self, sample: Sample) -> str:
        """Return where a mask is, for messages."""
        return str(sample.mask)

    @abstractmethod
    def explain_missing(self, name: str) -> str:
        """Return why an image has no mask, and what to do."""

    @abstractmethod
    def divide(self) -> str:
        """Return the settings that split the only split into training and validation images."""


class MaskFolders(MaskSource):
    """Masks in image files, paired with the images by name; see Folder for the settings."""

    def __init__(self, root: Path, split: str, given: FolderFiles) -> None:
        self.root, self.split, self.given = root, split, given
        self.settings = (given.binary,)
        self.num_classes, self.can_be_binary = 0, False

    @cached_property
    def layout(self) -> Layout:
        """The folders of images and masks, below root."""
        return choose_layout(self.root, self.given.images, self.given.masks, self.given.by_split)

    def exist(self) -> bool:
        """Whether there are such folders, or several that may be."""
        try:
            return bool(self.layout)
        except UserError:
            found = ([*find_layouts(self.root, by), *find_shared_folders(self.root, by)] for by in (True, False))
            return any(found)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have a folder."""
        masks = split_paths(self.root / self.layout.masks).values()  # {split} fits train_masks too
        found = split_paths(self.root / self.layout.images)
        return tuple(name for name, folder in found.items() if folder not in masks or len({*self.layout}) == 1)

    @property
    def paths_of_split(self) -> str:
        """The settings of the layout if it has {split}."""
        return str(self.layout) if SPLIT in "".join(self.layout) else ""

    @property
    def place(self) -> Path:
        """The folder of the images."""
        return self._folder(self.layout.images)

    def _folder(self, path: str) -> Path:
        return self.root / path.replace(SPLIT, self.split)

    @cached_property
    def files(self) -> tuple[Files, Files]:
        """Images and masks by name."""
        image_folder, mask_folder = map(self._folder, self.layout)
        is_shared = image_folder.resolve() == mask_folder.resolve()
        if is_shared and not self.given.image_suffix and not self.given.mask_suffix:
            if self.given.is_listed:  # pairs of files
                return {}, {}
            raise UserError(
                f"data.dataset.images={self.layout.images}: it holds masks too; type data.dataset.mask_suffix=_mask "
                "if the mask of x.jpg is x_mask.png, or image_suffix=.jpg mask_suffix=.png if it is x.png"
            )
        images = list_files(image_folder, IMAGE_SUFFIXES, SOURCE, self.given.image_suffix)
        masks = list_files(mask_folder, MASK_SUFFIXES, SOURCE, self.given.mask_suffix)
        if not images.keys() <= masks.keys():
            jpegs = list_files(mask_folder, JPEG_SUFFIXES, SOURCE, self.given.mask_suffix)
            if self.can_be_binary and self.given.binary is not False:
                masks = {**jpegs, **masks}
                log_once(f"JPEG masks in {mask_folder} are read as black and white, as by data.dataset.binary=true")
            elif not is_shared:
                report_problem(JPEG_MASK, jpegs.values())
                if jpegs and not masks:
                    self.advice = "JPEG changes the values; save the masks as PNG"
        if is_shared:
            used = {*masks.values()}
            return {name: path for name, path in images.items() if path not in used}, masks
        return match_names(images, masks, self.given.image_suffix, self.given.mask_suffix, mask_folder)

    def names(self) -> list[str]:
        """Return the names of the images; UserError if there are none."""
        images, masks = self.files
        if not images:
            raise UserError(f"{self.place} holds no image ({', '.join(IMAGE_SUFFIXES)}): {SOURCE}")
        if (SPLIT in self.layout.images) == (SPLIT in self.layout.masks):  # else the others belong to other splits
            report_problem(UNUSED_MASK, (path for name, path in masks.items() if name not in images))
        return [*images]

    def explain_missing(self, name: str) -> str:
        """Return what the folder of masks holds instead."""
        return explain_missing_mask(
            f"{name}{self.given.mask_suffix}", self._folder(self.layout.masks), self.num_classes
        )

    def divide(self) -> str:
        """Return the settings that split the only split into training and validation images."""
        only = Layout(*(path.replace(SPLIT, self.splits[0]) for path in self.layout))
        return f"{only} data.dataset.val_ratio=0.2"

    def find_classes(self) -> ClassFile:
        """UserError: masks do not name their classes."""
        found = find_class_files(self.root)[:1]
        files = "".join(f" or data.dataset.classes={path.relative_to(self.root)}" for path in found)
        raise UserError(
            f"data.dataset.classes must be given: data.dataset.classes=[background,cat,...]{files}; "
            f"python scripts/check_data.py data.root={self.root} proposes them"
        )

    def use_classes(self, classes: Sequence[str], label_map: LabelMap) -> LabelMap:
        """Set the classes; UserError if masks of more than two are to be binary."""
        self.num_classes = len(classes)
        self.can_be_binary = self.num_classes == 2 and not label_map
        if self.given.binary and not self.can_be_binary:
            raise UserError("data.dataset.binary=true: it needs two data.dataset.classes and no label_map")
        return label_map

    def read(self, sample: Sample) -> np.ndarray:
        """Return the values of the file; 0 and 1 for a black and white one."""
        raw = read_raw(sample.mask)
        is_jpeg = sample.mask.suffix.lower() in JPEG_SUFFIXES and self.can_be_binary
        return threshold(raw, sample.mask) if self.given.binary or (self.given.binary is None and is_jpeg) else raw
