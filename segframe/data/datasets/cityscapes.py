"""Cityscapes (Cordts et al., 2016): 19 classes of driving scenes in 50 cities."""

from pathlib import Path

import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import IMAGE_SUFFIXES, Sample, find_folder, list_files, pair_all, require_folder
from segframe.data.label_map import parse_palette
from segframe.data.mask_checks import TRAIN_IDS, from_train_ids
from segframe.errors import UserError

PARTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "train_extra": ("train_extra",)}
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelId of each class, in the order of `classes`; all other ids up to 33 are void in the benchmark."""


class Cityscapes(SegmentationDataset):
    """Cityscapes: 2,975 train and 500 val images of 2048x1024, and 19,998 with coarse masks in train_extra.

    `root` holds leftImg8bit and gtFine (gtCoarse for train_extra), in one folder or each in the folder of its archive.
    Masks are *_labelIds.png or, where there are none, *_labelTrainIds.png, which cityscapesScripts makes of polygons.
    """

    classes = (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    palette = parse_palette(
        "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 "
        "003c64 005064 0000e6 770b20"
    )
    splits = (*PARTS, "test")
    published = {"train": 2975, "val": 500, "trainval": 3475, "train_extra": 19998}  # noqa: RUF012
    label_map = {  # noqa: RUF012
        value: LABEL_IDS.index(value) if value in LABEL_IDS else "ignore" for value in range(34)
    }
    source = (
        "get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com (for "
        "train_extra leftImg8bit_trainextra.zip and gtCoarse.zip) and unpack them in data.root"
    )

    def find(self) -> list[Sample]:
        if self.split == "test":
            images = find_folder(self.root, "leftImg8bit/test") or self.root / "leftImg8bit/test"
            raise UserError(
                f"the masks of Cityscapes' test split under {self.root} are dummies: choose train or val, or predict "
                f"its images, scripts/predict.py checkpoint=... input={images} output=... submission=true"
            )
        return [sample for part in PARTS[self.split] for sample in self._part(part)]

    def _part(self, part: str) -> list[Sample]:
        kind = "gtCoarse" if part == "train_extra" else "gtFine"
        image_folder = require_folder(self.root, f"leftImg8bit/{part}", advice=self.source)
        folder = require_folder(self.root, f"{kind}/{part}", advice=self.source)
        images = list_files(image_folder, IMAGE_SUFFIXES, self.source, "_leftImg8bit")
        endings = (f"_{kind}_{TRAIN_IDS}", f"_{kind}_labelIds")
        masks = {
            name: path
            for ending in endings
            for name, path in list_files(folder, (".png",), self.source, ending).items()
        }
        advice = f"{folder} needs *{endings[1]}.png or *{endings[0]}.png"
        return pair_all(images, masks, folder, lambda name: advice)

    def load_mask(self, path: Path) -> np.ndarray:
        """Return labelIds, uint8 (H, W); those of the classes for the indices of labelTrainIds."""
        raw = super().load_mask(path)
        return from_train_ids(raw, LABEL_IDS, path) if path.stem.endswith(TRAIN_IDS) else raw

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether leftImg8bit and gtFine hold one of the splits."""
        return any(
            find_folder(root, f"leftImg8bit/{part}") and find_folder(root, f"{kind}/{part}")
            for part, kind in (("train", "gtFine"), ("val", "gtFine"), ("train_extra", "gtCoarse"))
        )
