"""The image files that annotations name, wherever they lie below a folder."""

import os
import re
from functools import cached_property
from pathlib import Path, PurePosixPath

from segframe.data.file_listing import IMAGE_SUFFIXES, SAME_NAME, report_problem, to_nfc
from segframe.data.layouts import MASK_WORD
from segframe.errors import UserError


class ImageFiles:
    """The image files of a folder and its sub-folders, by name.

    A name may have leading folders that another machine had, the backslashes of Windows, or another file type.
    """

    def __init__(self, top: Path, split: str) -> None:
        self.top, self.split = top, split

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Paths below the folder, by name without folders and suffix."""
        found: dict[str, list[str]] = {}
        for folder, inner, files in os.walk(self.top, followlinks=True):
            inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
            below = os.path.relpath(folder, self.top)
            for file in sorted(files):
                stem, suffix = os.path.splitext(file)
                if suffix.lower() in IMAGE_SUFFIXES and not file.startswith("."):
                    found.setdefault(to_nfc(stem), []).append(os.path.normpath(os.path.join(below, file)))
        return found

    def find(self, listed: str, near: Path) -> Path | None:
        """Return the image of a listed name; of several the one beside the annotations in `near`, or of the split.

        None if there is none; UserError if there are several that fit equally.
        """
        name = PurePosixPath(to_nfc(listed).replace("\\", "/"))
        paths = self.by_stem.get(name.stem) or self.by_stem.get(name.name, [])  # labelme's x.json is listed as x
        if len(paths) < 2:
            return self.top / paths[0] if paths else None
        ranks = sorted(((self._rank(name, path, near), path) for path in paths), reverse=True)
        if ranks[0][0] == ranks[1][0] and not report_problem(SAME_NAME, [self.top / ranks[1][1]]):
            raise UserError(
                f"{self.top / ranks[0][1]} and {self.top / ranks[1][1]} both may be {listed}: set data.dataset.images "
                "to the folder of the images"
            )
        return self.top / ranks[0][1]

    def _rank(self, name: PurePosixPath, path: str, near: Path) -> tuple[int, ...]:
        parts = PurePosixPath(to_nfc(path)).parts
        is_same = parts[-1] == name.name
        common = 0
        for own, other in zip(reversed(parts[:-1]), reversed(name.parts[:-1]), strict=False):
            if own != other:
                break
            common += 1
        is_beside = (self.top / path).parent == near
        of_split = any(re.search(rf"(?<![a-z]){re.escape(self.split)}(?![a-z])", part.lower()) for part in parts[:-1])
        is_image = not any(map(MASK_WORD.search, parts[:-1]))
        return is_same, common, is_beside, of_split, is_image
