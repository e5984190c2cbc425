"""Layouts of datasets in folders: where images and masks are, and how their names differ."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segframe.data.file_listing import (
    IMAGE_SUFFIXES,
    JPEG_SUFFIXES,
    MASK_SUFFIXES,
    Files,
    collect_problems,
    list_files,
    to_nfc,
)
from segframe.errors import UserError, first_names

SPLIT = "{split}"
"""Stands for the name of the split in the path of a folder."""
MAX_DEPTH = 4
"""Levels of folders below the root that are searched for images."""
MAX_FOLDERS = 60
"""Folders that are compared with each other, those at the top first."""
NUM_EXAMPLES = 7
"""Images whose names are compared with those of all masks to find the endings."""

_SPLIT_WORD = re.compile(
    r"(?<![a-z])(train(ing)?|valid(ation)?|val|test(ing)?)(?=$|[^a-z]|annot|mask|label|image|img)", re.IGNORECASE
)
MASK_WORD = re.compile(r"mask|label|annot|segm|truth|target|manual|(?<![a-z])(ann|gt|lbl|seg)", re.IGNORECASE)
_INSTANCES = re.compile(r"SegmentationObject|instance", re.IGNORECASE)
"""Folders of masks whose values are objects and no classes; the first is VOC's."""
_SEPARATORS = " _.-"

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Folders of images and masks below the root; SPLIT in their paths stands for the name of the split."""

    images: str
    masks: str

    def __str__(self) -> str:
        """Return the settings as typed on a command line."""
        return f"data.dataset.images={self.images} data.dataset.masks={self.masks}"


def choose_layout(top: Path, images: str | None, masks: str | None, by_split: bool) -> Layout:
    """Return the folders that are set, images and masks if they exist, or the only ones that look like a dataset.

    `by_split`: each split has a folder of its own. UserError, with the settings to type, if there is no such folder or
    more than one pair.
    """
    layout = Layout(images or "images", masks or "masks")
    if by_split:
        image_folder, mask_folder = (path if SPLIT in path else f"{path}/{SPLIT}" for path in layout)
        # All masks may be in one folder.
        layout = Layout(image_folder, mask_folder if split_paths(top / mask_folder) else layout.masks)
    missing = [path for path in layout if not split_paths(top / path)]
    if not missing:
        return layout
    given = {f"{path}{end}" for path in (images, masks) if path for end in ("", f"/{SPLIT}")}
    found = find_layouts(top, by_split)
    fitting = [each for each in found if not given or given & {*each}]
    if len(fitting) == 1:
        log_once(f"{fitting[0]} (found below {top})")
        return fitting[0]
    settings = [str(each) for each in fitting or found] or find_shared_folders(top, by_split)
    if by_split and not settings:
        flat = [*map(str, find_layouts(top, False)), *find_shared_folders(top, False)]
        splits = [*find_split_lists(top)[:1], "data.dataset.val_ratio=0.2"]
        settings = [f"{each} {split}" for split in splits for each in flat][: 2 if len(splits) > 1 else 4]
    folders = [f"{path} ({count} files)" for path, count in sorted(count_images(top).items())]
    there = first_names(folders, 8) or "no image or mask"
    cure = (
        " or ".join(settings[:4]) or "data.dataset.images=... and data.dataset.masks=..., folders of photos and masks"
    )
    raise UserError(f"data.root={top}: no folder {missing[0]} below it, but {there}; type {cure}")


@cache
def log_once(message: str) -> None:
    """Log what is found for one split and again for the others."""
    log.info(message)


def find_split_lists(top: Path) -> list[str]:
    """Return the settings of the lists train.txt and val.txt of one folder, those of VOC's segmentation first."""
    folders = [Path(folder) for folder, _, files in os.walk(top) if {"train.txt", "val.txt"} <= set(files)]
    names = sorted((path.relative_to(top) for path in folders), key=lambda path: (path.name != "Segmentation", path))
    return [f"'data.dataset.splits={{train: {name / 'train.txt'}, val: {name / 'val.txt'}}}'" for name in names]


def split_paths(path: Path, exists: Callable[[str], bool] = os.path.isdir) -> dict[str, Path]:
    """Return the folders (or what `exists`) that a path stands for, by name of the split; "" if SPLIT is not in it."""
    text = str(path)
    pattern = (
        re.escape(text)
        .replace(re.escape(SPLIT), "(?P<split>(?!__MACOSX)[^/]+)", 1)
        .replace(re.escape(SPLIT), "(?P=split)")
    )
    found = [hit for hit in sorted(glob.glob(glob.escape(text).replace(SPLIT, "*"))) if exists(hit)]
    matches = ((re.fullmatch(pattern, hit), hit) for hit in found)
    return {match.groupdict().get("split", ""): Path(hit) for match, hit in matches if match}


def find_layouts(top: Path, by_split: bool) -> list[Layout]:
    """Return the pairs of folders below the root that look like images and masks, by the names of folders and files."""
    folders = {PurePosixPath(folder) for folder in count_images(top)}
    folders |= {above for folder in folders for above in folder.parents}
    paths = permutations(_patterns(map(str, folders), by_split), 2)
    return [Layout(*both) for both in paths if _is_image_and_mask(*both) and _has_pairs(top, *both)]


def find_shared_folders(top: Path, by_split: bool) -> list[str]:
    """Return the settings of folders that hold masks beside the images, as x_mask.png beside x.jpg."""
    settings = []
    for path in _patterns(count_images(top), by_split):
        folder = next(iter(split_paths(top / path).values()), None)
        if folder is None:  # two words for splits that differ, as in release_test/testing
            continue
        with collect_problems():
            names = list_files(folder, (*IMAGE_SUFFIXES, *MASK_SUFFIXES), "")
        ends = Counter(
            name[cut.start() :]
            for name in names
            for cut in re.finditer(f"[{_SEPARATORS}]", name)
            if name[: cut.start()] in names
        )
        settings += [
            f"{Layout(path, path)} data.dataset.mask_suffix={end}" for end in ends if 3 * ends[end] > len(names)
        ]
    return settings


def split_name(path: str) -> str:
    return _SPLIT_WORD.sub(SPLIT, path)


def kinds_of_splits(path: str) -> set[str]:
    """Return the kinds of the splits that a path names: tra, val, tes."""
    return {word[0][:3].lower() for word in _SPLIT_WORD.finditer(path)}


def _patterns(folders: Iterable[str], by_split: bool) -> list[str]:
    paths = {split_name(folder) if by_split else folder for folder in folders}
    return sorted((path for path in paths if (SPLIT in path) == by_split), key=lambda path: (path.count("/"), path))[
        :MAX_FOLDERS
    ]


def count_images(top: Path) -> dict[str, int]:
    """Return the number of images and masks of each folder below the root."""
    found = {}
    for folder, inner, files in os.walk(top, followlinks=True):
        path = Path(folder).relative_to(top)
        inner[:] = [name for name in inner if not name.startswith((".", "__MACOSX"))] * (len(path.parts) < MAX_DEPTH)
        suffixes = Counter(os.path.splitext(name)[1].lower() for name in files if not name.startswith("."))
        if count := sum(suffixes[suffix] for suffix in {*IMAGE_SUFFIXES, *MASK_SUFFIXES}):
            found[path.as_posix()] = count
    return found


def _is_image_and_mask(images: str, masks: str) -> bool:
    a, b = images.split("/"), masks.split("/")
    own, other = set(a) - set(b), set(b) - set(a)
    # Folders below those of a split or a kind group the files, as by city.
    ends = all(SPLIT in path[-1] or path[-1] in own | other for path in (a, b))
    is_mask = any(map(MASK_WORD.search, other)) and not any(map(_INSTANCES.search, other))
    return ends and is_mask and not any(map(MASK_WORD.search, own))


def _has_pairs(top: Path, images: str, masks: str) -> bool:
    image_folders, mask_folders = split_paths(top / images), split_paths(top / masks)
    with collect_problems():
        for split in image_folders.keys() & mask_folders.keys():
            suffixes = {*IMAGE_SUFFIXES, *MASK_SUFFIXES}
            names, mask_names = (list_files(f[split], tuple(suffixes), "") for f in (image_folders, mask_folders))
            if names and find_endings([*names], mask_names):
                return True
    return False


def find_endings(images: Sequence[str], masks: Collection[str]) -> list[tuple[str, str]]:
    """Return the endings in which the names of images and of their masks differ, for at least half of the images.

    ("_leftImg8bit", "_gtFine") for aachen_0_leftImg8bit and aachen_0_gtFine; ("", "") as soon as one name is the same.
    """
    if any(name in masks for name in images):
        return [("", "")]
    examples = {images[k * len(images) // NUM_EXAMPLES] for k in range(NUM_EXAMPLES)}
    votes = Counter(endings for image in examples for endings in {*_endings(image, masks)})
    found = []
    for (of_image, of_mask), count in votes.most_common():
        names = [name.removesuffix(of_image) + of_mask for name in images if name.endswith(of_image)]
        if 2 * count >= len(examples) and 2 * sum(name in masks for name in names) >= len(images):
            found.append((of_image, of_mask))
    return found


def _endings(image: str, masks: Collection[str]) -> Iterator[tuple[str, str]]:
    for mask in masks:
        common = os.path.commonprefix([image, mask])  # noqa: RUF071 - of names
        ends = image[len(common) :], mask[len(common) :]
        if common[-1:] and common[-1] in _SEPARATORS and all(ends):
            ends = common[-1] + ends[0], common[-1] + ends[1]
        # An ending is a word, not a number, which tells images apart.
        if all(re.fullmatch(rf"|[{_SEPARATORS}]+[^\W\d_][^/]*", end) for end in ends) and common.strip(_SEPARATORS):
            yield ends


def match_names(images: Files, masks: Files, image_suffix: str, mask_suffix: str, folder: Path) -> tuple[Files, Files]:
    """Return images and masks without the endings in which all their names differ, unless those are set.

    UserError if there are several masks of an image.
    """
    found = [
        (of_image, of_mask)
        for of_image, of_mask in (find_endings([*images], masks) if images else [])
        if not (of_image and image_suffix) and not (of_mask and mask_suffix)
    ]
    settings = [
        " ".join(f"data.dataset.{kind}_suffix={end}" for kind, end in zip(("image", "mask"), ends, strict=True) if end)
        for ends in found
    ]
    if len(found) > 1:
        choices = f"type {' or '.join(settings[:4])}, or save one mask with all classes for each"
        raise UserError(f"{folder} holds several files for each image; {choices}")
    if not found or found == [("", "")]:
        return images, masks
    of_image, of_mask = found[0]
    images = {name.removesuffix(of_image): path for name, path in images.items() if name.endswith(of_image)}
    rest = (path for name, path in masks.items() if not name.endswith(of_mask) and _begins_with(name, images))
    if several := next(rest, None):
        raise UserError(
            f"{folder} holds several masks of one image, as {several.name}; save one mask with all classes for each, "
            f"or type {settings[0]} to read no others"
        )
    log_once(f"{settings[0]} (found in the names in {folder})")
    return images, {name.removesuffix(of_mask): path for name, path in masks.items() if name.endswith(of_mask)}


def explain_missing_mask(name: str, folder: Path, num_classes: int) -> str:
    """Return what a folder holds instead of the mask of this name, and what to do."""
    wanted = PurePosixPath(name).name.casefold()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*IMAGE_SUFFIXES, *MASK_SUFFIXES))
    near = [path for path in files if _begins_with(to_nfc(path.name).casefold(), [wanted])]
    same = [path for path in near if to_nfc(path.stem).casefold() == wanted]
    shown = ", ".join(path.name for path in (near or files)[:3]) or "no mask"
    if any(path.suffix.lower() in JPEG_SUFFIXES for path in same):
        binary = ", or type data.dataset.binary=true without a label_map" * (num_classes == 2)
        return f"{folder} holds {shown}, and JPEG changes the values; save the masks as PNG{binary}"
    if same and all(path.suffix.lower() not in MASK_SUFFIXES for path in same):
        return f"{folder} holds {shown}, and masks are {', '.join(MASK_SUFFIXES)} files; save the masks as PNG"
    if same:
        return f"{folder} holds {shown}; write both names with the same upper and lower case"
    several = ", or save one mask with all classes for each image" * (len(near) > 1)
    return f"{folder} holds {shown}; name the masks as their images, or type data.dataset.mask_suffix=...{several}"


def _begins_with(name: str, words: Collection[str]) -> bool:
    return any(name[: cut.start()] in words for cut in re.finditer(f"[{_SEPARATORS}]", name))
