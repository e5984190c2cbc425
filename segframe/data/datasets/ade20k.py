"""ADE20K in the form of the scene parsing benchmark, SceneParse150 (Zhou et al., 2017): 150 classes of all scenes."""

from pathlib import Path

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import Sample, find_folder, list_files, pair_all, require_folder
from segframe.data.label_map import parse_palette
from segframe.errors import UserError

FOLDERS = {"train": "training", "val": "validation"}
_NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, "
    "dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, "
    "fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, "
    "screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, "
    "monitor, bulletin board, shower, radiator, glass, clock, flag"
)
_COLOURS = (
    "787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652 "
    "8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 "
    "ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff "
    "8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff "
    "00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff "
    "ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff "
    "00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 "
    "5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 "
    "0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff "
    "b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff"
)


class ADE20K(SegmentationDataset):
    """ADE20K: 20,210 train and 2,000 val images, 150 classes.

    `root` holds ADEChallengeData2016 or is it. Masks hold 0 for other objects, which is void, and k + 1 for class k.
    The test images have none.
    """

    classes = tuple(_NAMES.split(", "))
    palette = parse_palette(_COLOURS)
    palette_is_declared = False
    splits = tuple(FOLDERS)
    published = {"train": 20210, "val": 2000}  # noqa: RUF012
    label_map = {value: value - 1 if value else "ignore" for value in range(151)}  # noqa: RUF012
    source = (
        "unpack http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip in data.root (it makes "
        "ADEChallengeData2016)"
    )

    def find(self) -> list[Sample]:
        part = FOLDERS[self.split]
        images = require_folder(self.root, f"images/{part}", advice=self.source)
        masks = require_folder(self.root, f"annotations/{part}", advice=self.source)
        return pair_all(list_files(images, (".jpg",), self.source), list_files(masks, (".png",), self.source), images)

    def load_mask(self, path: Path) -> np.ndarray:
        """Return the values of the release, uint8 (H, W); UserError for masks that are shifted already."""
        raw = super().load_mask(path)
        if (raw == IGNORE_INDEX).any():
            raise UserError(
                f"{path} holds 255, and ADE20K's masks hold 0 ... 150: if 1 was subtracted from them, read them by "
                "data=folder data.dataset.classes=[...]; else unpack them again"
            )
        return raw

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether annotations/training or annotations/validation is in ADEChallengeData2016, or holds masks ADE_*."""
        folder = find_folder(root, *(f"annotations/{part}" for part in FOLDERS.values()))
        if folder is None or find_folder(root, f"images/{folder.name}") is None:
            return False
        return "ADEChallengeData2016" in folder.resolve().parts or any(folder.glob("ADE_*.png"))
