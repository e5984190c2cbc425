"""Oxford-IIIT Pet (Parkhi et al., 2012): cats and dogs of 37 breeds, with trimaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.download import fetch_archive
from segframe.data.file_listing import Sample, find_folder, hash_to_unit, list_files, pair, require_folder
from segframe.data.image_io import read_image
from segframe.data.label_map import IGNORE, LabelTable, voc_palette
from segframe.data.split_lists import read_list
from segframe.data.transforms import Transform
from segframe.errors import UserError

URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
ARCHIVES = {
    "images.tar.gz": ("5c4f3ee8e5d25df40f4fd59a7f44e54c", "images/Abyssinian_100.jpg"),
    "annotations.tar.gz": ("95a8c909bbe2e81eed6a22bccdf3f68f", "annotations/trimaps"),
}
"""MD5 of each archive (as in torchvision) and a path that it contains."""
VALUES = {"pet": 1, "background": 2, "border": 3}
"""Values of the trimaps."""
TASKS = {"binary": ("background", "pet"), "trimap": ("pet", "background", "border")}
VAL_SHARE = 0.2
"""Fraction of trainval that becomes val; the release itself has no train and val."""


class OxfordPet(SegmentationDataset):
    """Oxford-IIIT Pet: 3,680 trainval and 3,669 test images; animals against background.

    `task`: binary, the classes background and pet, or trimap, the classes pet, background and border. `border`: what
    the pixels of the outline, 3 in the trimaps, are in a binary task: ignore, the default, pet or background.
    `root` holds images and annotations, or a folder with them. Beside the release's splits, train and val divide
    trainval: a hash of the names chooses a fifth for val.
    """

    classes: tuple[str, ...] = TASKS["binary"]
    palette = voc_palette(len(classes))
    splits = ("train", "val", "trainval", "test")
    palette_is_declared = False
    published = {"trainval": 3680, "test": 3669}  # noqa: RUF012
    source = f"unpack {' and '.join(f'{URL}/{name}' for name in ARCHIVES)} in data.root, or set data.download=true"

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform | None = None,
        seed: int = 0,
        *,
        task: str = "binary",
        border: str | None = None,
    ) -> None:
        if task not in TASKS:
            raise UserError(f"data.dataset.task={task}: unknown; type {' or '.join(TASKS)}")
        if border not in (None, IGNORE, *TASKS["binary"]) or (border is not None and task == "trimap"):
            raise UserError(
                f"data.dataset.border={border}: with task={task} it must be "
                f"{'null' if task == 'trimap' else 'ignore, pet or background'}; leave it out"
            )
        self.classes = self.class_names({"task": task})
        self.palette = voc_palette(len(self.classes))
        self.label_map = {value: name if name in self.classes else border or IGNORE for name, value in VALUES.items()}
        super().__init__(root, split, transform, seed)

    @classmethod
    def class_names(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the class names of `task`, binary or trimap."""
        return TASKS[settings.get("task", "binary")]

    @classmethod
    def mask_values(cls, classes: Sequence[str], settings: Mapping[str, Any]) -> list[int]:
        """Return the classes' values in the trimaps."""
        label_map: dict[int | str, int | str] = {
            value: name if name in classes else IGNORE for name, value in VALUES.items()
        }
        return LabelTable(classes, label_map, ()).mask_values()

    def find(self) -> list[Sample]:
        """Return the samples of the split's list, or of its share of trainval."""
        trimaps = require_folder(self.root, "annotations/trimaps", advice=self.source)
        photos = require_folder(self.root, "images", advice=self.source, suffixes=(".jpg",))
        list_name = "test" if self.split == "test" else "trainval"
        lines = read_list(trimaps.parent / f"{list_name}.txt", self.source)
        names = [line.split()[0] for line in lines if not line.startswith("#")]  # class, species and breed follow
        if self.split in ("train", "val"):
            names = [name for name in names if (hash_to_unit(name) < VAL_SHARE) == (self.split == "val")]
        images, masks = list_files(photos, (".jpg",), self.source), list_files(trimaps, (".png",), self.source)
        return pair(names, images, masks, f"Oxford-IIIT Pet {self.split}")

    def load_image(self, path: Path) -> np.ndarray:
        """Return the image of a file, (H, W, C), without alpha: some .jpg files are PNG or GIF pictures with one."""
        return read_image(path, self.pixels, keep_alpha=False)

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether there are trimaps, their lists and images."""
        trimaps = find_folder(root, "annotations/trimaps")
        has_list = trimaps is not None and any((trimaps.parent / f"{name}.txt").is_file() for name in cls.splits)
        return has_list and find_folder(root, "images", suffixes=(".jpg",)) is not None

    @classmethod
    def download(cls, root: str | Path) -> None:
        """Fetch images (0.8 GB) and annotations (19 MB) and unpack them in root, each unless it exists."""
        root = Path(root).expanduser()
        if (root / "oxford-iiit-pet").is_dir():  # of torchvision
            root /= "oxford-iiit-pet"
        for name, (md5, holds) in ARCHIVES.items():
            fetch_archive(f"{URL}/{name}", md5, root, holds)
