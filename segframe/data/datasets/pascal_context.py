"""PASCAL Context (Mottaghi et al., 2014): the photographs of VOC 2010 with 59 classes that cover the whole image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segframe.data.base import SegmentationDataset
from segframe.data.datasets.ade20k import ADE20K
from segframe.data.datasets.voc import find_year
from segframe.data.file_listing import Sample, list_files, pair
from segframe.data.label_map import IGNORE, LabelTable
from segframe.data.split_lists import read_list
from segframe.data.transforms import Transform
from segframe.errors import UserError

_NAMES = (
    "aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat, "
    "ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse, "
    "keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves, "
    "sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood"
)


class PascalContext(SegmentationDataset):
    """PASCAL Context: 4,998 train and 5,105 val images, 59 classes.

    `background`: whether pixels of no class, 0 in the masks, are a class, the first of 60, or void. Figures of the two
    protocols cannot be compared: papers that report 59 classes leave the background out.
    `root` contains VOCdevkit, or is VOCdevkit or VOC2010; beside JPEGImages it has SegmentationClassContext and
    ImageSets/SegmentationContext, which mmsegmentation's converter makes of trainval_merged.json.
    """

    classes = tuple(_NAMES.split(", "))
    palette = ADE20K.palette[1:60]  # as in mmsegmentation
    palette_is_declared = False
    splits = ("train", "val")
    published = {"train": 4998, "val": 5105}  # noqa: RUF012
    source = (
        "unpack VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010 in data.root (it makes "
        "VOCdevkit/VOC2010), and let tools/dataset_converters/pascal_context.py of mmsegmentation make "
        "SegmentationClassContext and ImageSets/SegmentationContext there from trainval_merged.json"
    )

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform | None = None,
        seed: int = 0,
        *,
        background: bool = False,
    ) -> None:
        self.classes = self.class_names({"background": background})
        if background:
            self.palette = ADE20K.palette[:60]
        self.label_map = _label_map(background)
        super().__init__(root, split, transform, seed)

    @classmethod
    def class_names(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the 59 class names, or 60 with `background`."""
        return ("background", *cls.classes) if settings.get("background") else cls.classes

    @classmethod
    def mask_values(cls, classes: Sequence[str], settings: Mapping[str, Any]) -> list[int]:
        """Return 0 for the background, 1 to 59 for the others."""
        return LabelTable(classes, _label_map(bool(settings.get("background"))), ()).mask_values()

    def find(self) -> list[Sample]:
        if (folder := find_year(self.root, 2010)) is None:
            raise UserError(f"no VOC2010/JPEGImages under {self.root}: {self.source}")
        names = read_list(folder / "ImageSets" / "SegmentationContext" / f"{self.split}.txt", self.source)
        images = list_files(folder / "JPEGImages", (".jpg",), self.source)
        masks = list_files(folder / "SegmentationClassContext", (".png",), self.source)
        return pair(names, images, masks, f"PASCAL Context {self.split}")

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether there are SegmentationClassContext and ImageSets/SegmentationContext."""
        folder = find_year(root, 2010)
        return folder is not None and all(
            (folder / path).is_dir() for path in ("SegmentationClassContext", "ImageSets/SegmentationContext")
        )


def _label_map(background: bool) -> dict[int | str, int | str]:
    first = 0 if background else 1
    return {value: value - first if value >= first else IGNORE for value in range(60)}
