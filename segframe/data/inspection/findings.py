"""Findings about the files of a split: missing, unreadable, of different sizes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from segframe.data import file_listing, split_lists
from segframe.data.annotations import problems
from segframe.data.base import SegmentationDataset
from segframe.data.class_files import find_class_files, read_class_file
from segframe.data.inspection.finding import ERROR, NOTE, WARNING, Finding
from segframe.data.inspection.mask_findings import check_masks
from segframe.data.inspection.splits import Split
from segframe.errors import UserError, shorten

LISTING_PROBLEMS = {
    file_listing.NO_IMAGE: (ERROR, "bring the image, or take it out of the list"),
    file_listing.UNUSED_MASK: (
        WARNING,
        "nothing reads it: it needs an image of the same name, or a line with both in a list",
    ),
    file_listing.NO_MASK: (ERROR, "it needs a mask of the same name, see data.dataset.mask_suffix"),
    file_listing.MISSING_FILE: (ERROR, "bring the file, or correct the line"),
    file_listing.SAME_NAME: (
        ERROR,
        "say which to read: data.dataset.image_suffix=.jpg or mask_suffix=.png, for example",
    ),
    file_listing.LISTED_TWICE: (ERROR, "list it once"),
    file_listing.INVALID_LINE: (ERROR, split_lists.LINE_FORMAT),
    file_listing.JPEG_MASK: (
        ERROR,
        "JPEG changes the values: save the masks as PNG, or if they are black and white set data.dataset.binary=true",
    ),
    problems.NO_CATEGORY: (ERROR, "add the category to the file's categories, or take the annotations out"),
    problems.UNUSED_ANNOTATION: (WARNING, "nothing reads them: is the file's list of images whole?"),
    problems.NO_IMAGE_OF: (WARNING, "nothing reads them: bring the image, or move the file to another folder"),
    problems.NO_ANNOTATION: (WARNING, "annotate it, or save a file without shapes if all of it is background"),
    problems.OUTSIDE: (
        WARNING,
        "only what is in the image counts: was the image resized or cut after it was annotated?",
    ),
    problems.DEGENERATE: (WARNING, "it has too few points, or none within the image: draw it again or delete it"),
    problems.UNKNOWN_SHAPE: (WARNING, "draw it as a polygon"),
    problems.NO_CLASS_OF: (
        NOTE,
        "it becomes background (void if no class is): data.dataset.classes or label_map={category: class} changes that",
    ),
    problems.NOTHING_ON_IT: (NOTE, ""),
    problems.DRAWN: (NOTE, "lines are 10 pixels wide, points have a radius of 5: draw polygons if that is wrong"),
}
"""Severity and advice for each kind of problem with the files of a split."""

SAME_SPLIT = "validation is on the images of training"

SAME_SIZE_ORIENTATIONS = range(2, 5)
"""EXIF orientations that keep height and width; higher ones swap them."""


def check_split(split: Split, splits: Sequence[Split]) -> list[Finding]:
    """Return the findings about a split, of which all samples are examined, or some.

    Advice about mask values considers the masks of all splits, which share their settings.
    """
    return [
        *_check_number(split),
        *_check_listing(split),
        *_check_readable(split),
        *_check_sizes(split),
        *_check_images(split),
        *check_masks(split, splits),
    ]


def _check_number(split: Split) -> Iterator[Finding]:
    number, published = len(split.dataset), split.dataset.published.get(split.name)
    if published is not None and number != published:
        advice = "bring the whole release, or do not compare metrics with published ones"
        yield Finding(
            WARNING, split.name, f"{number:,} image{'s' * (number != 1)}, published are {published:,}", [], advice
        )


def _check_listing(split: Split) -> Iterator[Finding]:
    reported = [*split.problems, *(problem for facts in split.facts for problem in facts.problems)]
    for kind, (severity, advice) in LISTING_PROBLEMS.items():
        if kind == file_listing.NO_MASK and not split.dataset.labels_are_settings:
            advice = f"bring its mask, or take the image out; {split.dataset.source}"
        if found := list(dict.fromkeys(problem.file for problem in reported if problem.kind == kind)):
            yield Finding(severity, split.name, kind, found, advice)
    # Those that are read as black and white hold 0 and 1.
    if lossy := [path for path, mask in split.masks if mask.header.format == "JPEG" and mask.values.max() > 1]:
        yield Finding(WARNING, split.name, file_listing.JPEG_MASK, lossy, LISTING_PROBLEMS[file_listing.JPEG_MASK][1])


def _check_readable(split: Split) -> Iterator[Finding]:
    for kind in ("image", "mask"):
        failed = [(getattr(facts, f"{kind}_path"), getattr(facts, kind)) for facts in split.facts]
        if failed := [(path, message) for path, message in failed if isinstance(message, str)]:
            paths = [path for path, _ in failed]
            yield Finding(ERROR, split.name, f"{kind} that cannot be read", paths, failed[0][1])


def _check_sizes(split: Split) -> Iterator[Finding]:
    rotated: list[str] = []
    other: dict[str, str] = {}
    turned: list[str] = []
    for facts, image in split.images:
        mask = facts.mask
        if isinstance(mask, str):
            continue
        orientations = image.header.orientation, mask.header.orientation
        if image.size != mask.size:
            if max(orientations) > SAME_SIZE_ORIENTATIONS[-1] and image.size == mask.size[::-1]:
                rotated.append(facts.image_path)
            else:
                other[facts.image_path] = "{}x{} and {}x{}".format(*image.size, *mask.size)
        elif orientations[0] != orientations[1] and (
            orientations[0] in SAME_SIZE_ORIENTATIONS or image.size[0] == image.size[1]
        ):
            turned.append(facts.image_path)
    if rotated:
        advice = "rotate the masks, or remove the orientation from the photos (exiftran -a)"
        what = "image that is rotated by its EXIF orientation, and its mask is not"
        yield Finding(ERROR, split.name, what, rotated, advice)
    if other:
        what = f"image and mask of different sizes ({next(iter(other.values()))}, for example)"
        advice = "resize both, the mask by nearest neighbour, or neither"
        yield Finding(ERROR, split.name, what, list(other), advice)
    if turned:
        what = "image that is rotated or mirrored by its EXIF orientation, and its mask is not"
        advice = "check that they match: the mask must be drawn on the upright image"
        yield Finding(WARNING, split.name, what, turned, advice)


def _check_images(split: Split) -> Iterator[Finding]:
    if blank := [facts.image_path for facts, image in split.images if image.is_blank]:
        yield Finding(
            WARNING, split.name, "image of a single colour", blank, "nothing can be learned from it: is the file right?"
        )
    if several := [facts.image_path for facts, image in split.images if image.header.format == "MPO"]:
        advice = "the first is read: does its mask belong to it? Others are mostly previews, or views for stereo"
        yield Finding(WARNING, split.name, "JPEG of several pictures", several, advice)
    channels = split.dataset.pixels.channels
    expected = "L" if channels == 1 else "RGB" if channels == 3 else f"{channels} bands"
    for mode in sorted({image.header.mode for _, image in split.images}):
        if mode == expected or mode.startswith(f"{channels} bands "):
            continue
        found = [facts.image_path for facts, image in split.images if image.header.mode == mode]
        advice = f"is read as {expected}"
        if mode == "CMYK":
            advice += ": check that the colours are right"
        yield Finding(NOTE, split.name, f"image of mode {mode}", found, advice)


def check_class_files(dataset: SegmentationDataset) -> Iterator[Finding]:
    """Find the class files of annotation tools near the images that give other classes or colours."""
    others: dict[str, list[str]] = {}
    for path in find_class_files(dataset.root) if dataset.labels.are_settings else []:
        try:
            names, palette, _ = read_class_file(path)
        except UserError as error:
            yield Finding(NOTE, "", "class file that cannot be read", [str(path)], str(error))
            continue
        if names != list(dataset.classes) or (palette and not dataset.labels.declares_colours):
            others.setdefault(", ".join(names), []).append(str(path))
    for text, files in others.items():
        advice = f"if it belongs to the masks, set data.dataset.classes={Path(files[0]).relative_to(dataset.root)}"
        yield Finding(WARNING, "", f"class file that is not used: {shorten(text)}", files, advice)
