"""Base class of the datasets, and class weights from their masks."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from segframe.config.run_schema import DataConfig
from segframe.data.cache import Cache
from segframe.data.file_listing import LISTED_TWICE, Sample, disambiguate_names, file_stamp, report_problem
from segframe.data.image_io import read_image, read_raw
from segframe.data.label_map import LabelTable, Palette
from segframe.data.mask_checks import (
    BLACK_AND_WHITE,
    advise_on_black_and_white,
    check_item,
    check_palette,
    is_black_and_white,
    map_mask,
)
from segframe.data.pixel_format import PixelFormat
from segframe.data.transforms import Transform
from segframe.errors import UserError


class SegmentationDataset(Dataset[dict[str, Any]], ABC):
    """Images and masks of one split.

    Items are {"image": uint8 (C, H, W), or float32 in 0 ... 255 for images of 16 bits, "mask": uint8 (H, W) with
    void = 255, "name": str}. The key of an item is its index or (epoch, index): the augmentation is a function of
    (seed, epoch, index) alone.
    """

    classes: tuple[str, ...]
    palette: Palette
    splits: tuple[str, ...]
    source: str
    """Where to download the files and where to put them; the end of error messages about missing files."""
    label_map: Mapping[int | str, int | str] = {}
    """Mask value or "#rrggbb" -> class index or name, for values that are not class indices or palette colours."""
    labels_are_settings: bool = False
    """Whether users set classes, palette and label_map (data.dataset.*)."""
    pixels = PixelFormat()
    """Channels and highest value of the images; open_split sets the config's."""
    mask_settings: tuple[Any, ...] = ()
    """Further settings that change masks: a cache holds the masks of one choice."""
    palette_is_declared: bool = True
    """Whether masks saved as RGB have the palette's colours; otherwise it is for pictures only."""
    published: ClassVar[Mapping[str, int]] = {}
    """Published number of images of each split."""
    has_palette_masks: bool = False
    """Whether the masks of the release are palette PNGs, and those of submissions have to be."""
    reads_files: bool = True
    """Whether samples are files that load_image and load_mask read: those can be cached, and checked one by one."""
    cache: Cache | None = None

    def __init__(self, root: str | Path, split: str, transform: Transform | None = None, seed: int = 0) -> None:
        self.check_split(split)
        self.root = Path(root).expanduser()
        self.split = split
        self.transform = transform
        self.seed = seed
        if len(self.palette) < len(self.classes):
            raise UserError(
                f"{type(self).__name__} has {len(self.classes)} classes and {len(self.palette)} colours; give its "
                "palette one for each"
            )
        palette = self.palette if self.palette_is_declared else ()
        self.labels = LabelTable(self.classes, self.label_map, palette, self.labels_are_settings)
        self._checked: set[int] = set()
        self.samples = disambiguate_names(self.find())
        if not self.samples:
            raise UserError(f"the {split} split under {self.root} is empty: {self.source}")
        if repeated := [name for name, count in Counter(sample.name for sample in self.samples).items() if count > 1]:
            if not report_problem(LISTED_TWICE, [f"{split}: {name}" for name in repeated]):
                raise UserError(f"the {split} split under {self.root} lists {repeated[0]!r} repeatedly: list it once")
            self.samples = list({sample.name: sample for sample in self.samples}.values())

    def check_split(self, split: str) -> None:
        """UserError if there is no such split."""
        if split not in self.splits:
            there = ", ".join(self.splits)
            advice = self.advise_on_splits(split)
            raise UserError(f"{type(self).__name__} has no split {split!r}: it has {there}; {advice}")

    def advise_on_splits(self, split: str) -> str:
        """Return the setting that chooses another split than one that there is not."""
        is_train = split.lower().startswith("tr")
        trains = [name for name in self.splits if name.lower().startswith("train")]
        fitting = [name for name in self.splits if (name in trains) == is_train] or list(self.splits)
        best = next(iter(get_close_matches(split, fitting, 1, 0.3)), fitting[0] if fitting else "...")
        return f"type data.{'train' if is_train else 'val'}_split={best}"

    @abstractmethod
    def find(self) -> list[Sample]:
        """Return the samples of the split in a fixed order; UserError if files are missing."""

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether root, or a usual folder below it, holds this dataset in its layout; looks at few files."""
        return False

    @classmethod
    def class_names(cls, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the classes with the settings of data.dataset; None if they are read from files."""
        return getattr(cls, "classes", None)

    @classmethod
    def mask_values(cls, classes: Sequence[str], settings: Mapping[str, Any]) -> list[int]:
        """Return the value of each class in the dataset's own masks, the inverse of the label map.

        `classes`: those of a run, `settings`: its data.dataset. UserError if a class has no single value.
        """
        label_map = {**cls.label_map, **(settings.get("label_map") or {})}
        return LabelTable(classes, label_map, ()).mask_values()

    @classmethod
    def download(cls, root: str | Path) -> None:
        """Download the files to root; UserError if that is not possible automatically."""
        raise UserError(f"{cls.__name__} has no automatic download: {cls.source}")

    def load_image(self, path: Path) -> np.ndarray:
        """Return the image of a file, (H, W, C), see image_io.read_image."""
        return read_image(path, self.pixels)

    def load_mask(self, path: Path) -> np.ndarray:
        """Return the raw values of a mask file, see raw_mask."""
        return read_raw(path)

    def raw_mask(self, sample: Sample) -> np.ndarray:
        """Return the raw values of a mask, (H, W): indices of uint8 or uint16, or colours (image_io.COLOURS)."""
        return self.load_mask(sample.mask)

    def describe_mask(self, sample: Sample) -> str:
        """Return where a sample's mask is, for messages: the path of its file."""
        return str(sample.mask)

    def mask_stamp(self, sample: Sample) -> tuple[int, int]:
        """Return two numbers that change with a sample's mask: size and time of modification of its file."""
        return file_stamp(sample.mask)

    def stamp(self, index: int) -> list[int]:
        """Return four numbers that change with a sample's image and mask."""
        sample = self.samples[index]
        return [*file_stamp(sample.image), *self.mask_stamp(sample)]

    def read_mask(self, index: int) -> np.ndarray:
        """Return the mask as uint8 (H, W), void = 255; UserError if a value is no class."""
        path = self.samples[index].mask
        raw = self.raw_mask(self.samples[index])
        if index not in self._checked:
            # What quick_check may not see in its sample; each process checks a mask when it first reads it.
            if is_black_and_white(self.labels, raw) and not self._holds_class_1:
                raise UserError(f"{path}: {BLACK_AND_WHITE}; {advise_on_black_and_white(self.labels)}")
            check_palette(self.labels, raw, path)
            self._checked.add(index)
        return map_mask(self.labels, raw, path)

    @cached_property
    def _holds_class_1(self) -> bool:
        return any((self.raw_mask(sample) == 1).any() for sample in self.samples)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image (H, W, C), uint8 or uint16, and its mask; read-only if they are cached.

        UserError if a file is invalid or the sizes differ.
        """
        if self.cache is None:
            return self._load(index)
        return self.cache.read(index, self.stamp, self._load)

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image, mask = self.load_image(sample.image), self.read_mask(index)
        if image.shape[:2] != mask.shape:
            sizes = "{}x{}, its mask {path} {}x{}".format(
                *image.shape[:2], *mask.shape, path=self.describe_mask(sample)
            )
            raise UserError(f"{sample.image} is {sizes} pixels: both must have the same size, was only one resized?")
        return image, mask

    def check_pixels(self, image: np.ndarray, index: int) -> None:
        """Raise UserError if an image has other channels or bits than data.channels and data.max_value say."""
        if image.shape[2:] != (self.pixels.channels,) or image.dtype != self.pixels.depth:
            found = f"{image.dtype} of shape {image.shape}, but data.channels={self.pixels.channels}"
            name = f"{type(self).__name__} {self.samples[index].name}"
            raise UserError(f"{name} is {found} and data.max_value={self.pixels.max_value}: set both as its images are")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a plain `for item in dataset`
        try:
            image, mask = self.read(index)
        except Exception as error:
            if not isinstance(error, UserError):  # of a dataset of the user's own
                error.add_note(f"data.dataset={type(self).__name__}: sample {index} ({self.samples[index].name})")
            raise
        self.check_pixels(image, index)
        height, width = image.shape[:2]
        try:
            if self.transform is not None:
                seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]
                image, mask = self.transform(image, mask, int(seed))
            mask = check_item(self.labels, image, mask)
        except UserError as error:
            sample = self.samples[index]
            where = sample.image if sample.image != Path() else f"{type(self).__name__} {sample.name}"
            raise UserError(f"{where} ({height}x{width} pixels, sample {index}): {error}") from error
        return {
            "image": torch.from_numpy(np.require(self.pixels.scaled(image), requirements="W")).permute(2, 0, 1),
            "mask": torch.from_numpy(np.require(mask, requirements="W")),
            "name": self.samples[index].name,
        }


def open_split(make_dataset: Callable[..., SegmentationDataset], data: DataConfig, split: str, **more: Any) -> Any:
    """Return a split of a config's dataset; `more`: transform and seed, if it is for training."""
    dataset = make_dataset(root=data.root, split=split, **more)
    dataset.pixels = PixelFormat(data.channels, data.max_value)
    return dataset


def class_weights(dataset: SegmentationDataset) -> list[float]:
    """Return median(freq) / freq(c) per class, for imbalanced data; reads every mask, no image.

    Median frequency balancing (Eigen & Fergus, 2015; SegNet, 2017): freq(c) is the share of c in the pixels, void
    included, of the images that show c. A class that never occurs weighs 1 and is left out of the median.
    """
    num_classes = len(dataset.classes)
    pixels, area = np.zeros(num_classes), np.zeros(num_classes)

    def count(index: int) -> tuple[np.ndarray, int]:
        mask = dataset.read_mask(index)
        return np.bincount(mask.ravel(), minlength=num_classes)[:num_classes], mask.size

    with ThreadPoolExecutor() as pool:
        for counts, size in pool.map(count, range(len(dataset))):
            pixels += counts
            area += (counts > 0) * size
    seen = area > 0
    frequency = pixels[seen] / area[seen]
    weights = np.ones(num_classes)
    weights[seen] = np.median(frequency) / frequency
    return weights.tolist()
