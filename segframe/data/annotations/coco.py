"""COCO JSON files as masks: of COCO itself, Roboflow, CVAT, Label Studio, FiftyOne and others."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.annotations import rle
from segframe.data.annotations.coco_file import NOTHING, RUNS, CocoFile, open_coco, points
from segframe.data.annotations.problems import (
    DEGENERATE,
    NO_CATEGORY,
    NO_CLASS_OF,
    NOTHING_ON_IT,
    OUTSIDE,
    UNUSED_ANNOTATION,
)
from segframe.data.annotations.regions import Region, check_size, paint, reaches_outside
from segframe.data.annotations.source import Annotations
from segframe.data.file_listing import SAME_NAME, Files, Sample, file_stamp, report_problem, to_nfc
from segframe.data.image_io import read_header
from segframe.errors import UserError


class Coco(Annotations):
    """The annotations of a JSON file; the images are those that it lists.

    Polygons and run lengths are filled as pycocotools does. Crowd regions (iscrowd=1) are pixels of their category.
    The file is read once, so a run keeps the annotations that it started with.
    """

    exists = staticmethod(os.path.isfile)

    @cached_property
    def file(self) -> CocoFile:
        if not self.place.exists():
            raise UserError(f"data.dataset.annotations={self.path}: {self.place} does not exist; correct the path")
        return open_coco(self.place, file_stamp(self.place))

    @property
    def categories(self) -> list[str]:
        """The names of the categories in the order of their ids."""
        return [name for _, name in self.file.categories]

    @cached_property
    def _listed(self) -> dict[str, int]:
        # The number of each image in the file by its name, without suffix.
        found: dict[str, int] = {}
        for k, listed in enumerate(self.file.image_names):
            path = PurePosixPath(to_nfc(listed).replace("\\", "/"))
            name = path.with_suffix("").as_posix() if path.name else listed
            if name in found:
                name = path.as_posix()  # x.jpg and x.png
            if name in found:
                if not report_problem(SAME_NAME, [f"{self.place}: {listed}"]):
                    raise UserError(f"{self.place} lists the image {listed} repeatedly: list it once")
                continue
            found[name] = k
        return found

    @cached_property
    def files(self) -> tuple[Files, Files]:
        """The images that exist, and the JSON file for all that it lists."""
        names = self.file.image_names
        found = {name: self.image_files.find(names[k], self.place.parent) for name, k in self._listed.items()}
        if not any(found.values()):
            raise UserError(
                f"{self.place} lists {len(found)} images, as {next(iter(found), '')}, and none is below "
                f"{self.image_files.top}: set data.dataset.images to their folder"
            )
        return {name: path for name, path in found.items() if path}, dict.fromkeys(found, self.place)

    def names(self) -> list[str]:
        report_problem(UNUSED_ANNOTATION, [self.place] * min(1, self.file.num_without_image))
        is_empty = np.diff(self.file.first_of_image) == 0
        report_problem(NOTHING_ON_IT, (f"{self.place}: {name}" for name, k in self._listed.items() if is_empty[k]))
        return [*self._listed]

    @cached_property
    def _number(self) -> dict[Path, int]:
        return {path: self._listed[name] for name, path in self.files[0].items()}

    @cached_property
    def _values(self) -> np.ndarray:
        values = [self.value(name) for name in self.categories]
        return np.array([self.unlabelled if value is None else value for value in values], np.uint8)

    def read(self, sample: Sample) -> np.ndarray:
        """Return the mask of an image, uint8 (H, W), void = 255."""
        number = self._number[sample.image]
        height, width = self.file.sizes[number].tolist()
        if not height * width:
            height, width = read_header(sample.image).upright_size
        where = self.describe(sample)
        size = check_size(where, height, width)
        return paint(size, self._regions(number, size, where), self.unlabelled)

    def _regions(self, number: int, size: tuple[int, int], where: str) -> Iterator[Region]:
        for category, parts in self.file.annotations(number):
            if category < 0:
                if report_problem(NO_CATEGORY, [where]):
                    continue
                raise UserError(f"{where}: {NO_CATEGORY}; add it to the categories, or take the annotation out")
            if self.value(self.categories[category]) is None:
                report_problem(NO_CLASS_OF, [f"{where}: {self.categories[category]}"])
            yield from self._region(int(self._values[category]), parts, size, where)

    def _region(
        self, value: int, parts: Sequence[tuple[int, bytes]], size: tuple[int, int], where: str
    ) -> Iterator[Region]:
        encoded = []
        for kind, content in parts:
            if kind == RUNS:
                if tuple(np.frombuffer(content, np.int64, 2).tolist()) != size:
                    raise UserError(f"{where}: a segmentation has another size than the image; export it again")
                encoded.append(content[16:])
            elif kind != NOTHING:
                polygon = points(kind, content)
                if reaches_outside(polygon, size):
                    report_problem(OUTSIDE, [where])
                encoded.append(rle.from_polygon(polygon, *size))
        try:
            found = rle.decode(rle.union(encoded, *size), *size) if encoded else (0, 0, np.zeros((0, 0), bool))
        except ValueError as error:
            raise UserError(f"{where}: a segmentation cannot be read, {error}; export it again") from None
        if not found[2].size:
            report_problem(DEGENERATE, [where])
        yield Region(value, *found)

    def describe(self, sample: Sample) -> str:
        return f"{self.place}: {self.file.image_names[self._number[sample.image]]}"

    def stamp(self, sample: Sample) -> tuple[int, int]:
        """Return a hash of what the mask consists of: other images' annotations may change."""
        number = self._number[sample.image]
        digest = blake2b(self.file.sizes[number].tobytes(), digest_size=16)
        for category, parts in self.file.annotations(number):
            digest.update(repr((int(self._values[category]) if category >= 0 else IGNORE_INDEX, parts)).encode())
        first, second = np.frombuffer(digest.digest(), np.int64).tolist()
        return first, second
