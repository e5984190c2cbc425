"""COCO-Stuff 164k (Caesar et al., 2018): the photographs of COCO 2017 with 80 things and 91 kinds of stuff."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import Sample, find_folder, list_files, pair_all, require_folder
from segframe.data.label_map import parse_palette
from segframe.data.mask_checks import TRAIN_IDS, from_train_ids

IMAGES = ("images/{}", "{}")
MASKS = (
    *("stuffthingmaps/{}", "stuffthingmaps_trainval2017/{}", "annotations/{}"),
    *("annotations/stuffthingmaps_trainval2017/{}", "annotations/stuffthingmaps/{}", "{}"),
)
"""Folders of the images and masks of train2017 and val2017, below root or below a folder in it."""
VALUES = tuple(value for value in range(182) if value not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))
"""Mask values of the classes: COCO's ids minus 1; eleven ids have no pixels."""
_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, "
    "laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, "
    "scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, "
    "cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, "
    "desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, "
    "fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, "
    "mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, "
    "playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, "
    "snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, "
    "wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, "
    "window-blind, window-other, wood"
)
_COLOURS = (
    "00c040 00c040 004060 80c0c0 004040 00c0e0 00c0c0 80c040 00c060 80c040 8020c0 0000e0 000040 00a0c0 800060 8000c0 "
    "0020c0 8080e0 0000c0 80a0c0 808000 800020 802000 800080 408020 00a000 000000 c080a0 002000 008080 4080a0 80a000 "
    "008000 c08020 806080 000080 400020 00e080 800000 c000a0 006080 808080 4000a0 80e080 808040 c00020 806000 8000c0 "
    "008020 40e000 000040 8080a0 406000 0080c0 0080a0 c0e000 008040 808020 c02080 0040c0 000020 40a080 804040 8000a0 "
    "402080 80c0c0 0000a0 c0a080 80c000 800060 c02000 804080 408060 40a000 004000 c080e0 402000 00c080 4080e0 c0a000 "
    "00c000 c08060 c06080 004080 400060 40e080 804000 c000e0 406080 80c080 4000e0 c0e080 80c040 c00060 c06000 8040c0 "
    "008060 00e000 404040 8080e0 006000 40c0c0 0080e0 80e000 40c040 808060 802080 4000c0 004060 00a080 c00040 8040e0 "
    "002080 c080c0 0040e0 80a080 c08000 804020 802040 c00080 40c020 00a040 400000 c0c0a0 002040 408080 40c0a0 80a040 "
    "408000 c0c020 8060c0 400080 404020 00e0c0 c00000 c040a0 0060c0 c08080 4040a0 80e0c0 c08040 c04020 806040 c000c0 "
    "00c020 40e040 400040 80c0a0 406040 4080c0 00c0a0 c0e040 408040 80c020 c020c0 4040c0 004020 40a0c0 c04040 8040a0 "
    "4020c0 c0c0c0 0040a0 c0a0c0 c0c000 804060 c02040 c04080 40c060 40a040 404000"
)


class COCOStuff(SegmentationDataset):
    """COCO-Stuff 164k: 118,287 train and 5,000 val images, 171 classes.

    `root` holds COCO's train2017 and val2017, or images/train2017 and images/val2017, and the folders of the same names
    of stuffthingmaps_trainval2017.zip in annotations, stuffthingmaps or stuffthingmaps_trainval2017. Masks hold COCO's
    ids minus 1, 255 is void; *_labelTrainIds.png, which mmsegmentation makes of them, hold class indices.
    """

    classes = tuple(_NAMES.split(", "))
    palette = parse_palette(_COLOURS)
    palette_is_declared = False
    splits = ("train", "val")
    published = {"train": 118287, "val": 5000}  # noqa: RUF012
    label_map = {value: k for k, value in enumerate(VALUES)}  # noqa: RUF012
    source = (
        "unpack train2017.zip and val2017.zip of http://images.cocodataset.org/zips in data.root/images, and "
        "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip in "
        "data.root/stuffthingmaps"
    )

    def find(self) -> list[Sample]:
        part = f"{self.split}2017"
        image_folder = require_folder(self.root, *_paths(IMAGES, part), advice=self.source, suffixes=(".jpg",))
        mask_folder = require_folder(self.root, *_paths(MASKS, part), advice=self.source, suffixes=(".png",))
        found = list_files(mask_folder, (".png",), self.source)
        raw = {name: path for name, path in found.items() if not name.endswith(TRAIN_IDS)}
        masks = {name.removesuffix(f"_{TRAIN_IDS}"): path for name, path in found.items()} | raw
        return pair_all(list_files(image_folder, (".jpg",), self.source), masks, image_folder)

    def load_mask(self, path: Path) -> np.ndarray:
        """Return COCO's ids minus 1, uint8 (H, W); those of the classes for the indices of *_labelTrainIds.png."""
        raw = super().load_mask(path)
        return from_train_ids(raw, VALUES, path) if path.stem.endswith(TRAIN_IDS) else raw

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether there are images and masks, PNG files in folders of the same names, of train2017 or val2017."""
        return any(
            find_folder(root, *_paths(IMAGES, part), suffixes=(".jpg",))
            and find_folder(root, *_paths(MASKS, part), suffixes=(".png",))
            for part in ("train2017", "val2017")
        )


def _paths(patterns: Sequence[str], part: str) -> list[str]:
    return [pattern.format(part) for pattern in patterns]
