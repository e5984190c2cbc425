"""Findings about a split: errors that would stop a training, warnings about silent problems, notes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data import file_listing, mask_checks, split_lists
from segframe.data.base import SegmentationDataset
from segframe.data.class_files import find_class_files, read_class_file
from segframe.data.image_io import COLOURS
from segframe.data.inspection.facts import MaskFacts
from segframe.data.inspection.splits import Split
from segframe.data.label_map import NO_CLASS, LabelTable, format_value
from segframe.errors import UserError, shorten

ERROR, WARNING, NOTE = "error", "warning", "note"

LISTING_PROBLEMS = {
    file_listing.NO_IMAGE: (WARNING, "delete it, or bring its image"),
    file_listing.NO_MASK: (ERROR, "bring its mask, or take the image out of the folder or list"),
    file_listing.MISSING_FILE: (ERROR, "bring the file, or take the line out"),
    file_listing.SAME_NAME: (ERROR, "keep one of them"),
    file_listing.LISTED_TWICE: (ERROR, "list it once"),
    file_listing.INVALID_LINE: (ERROR, split_lists.LINE_FORMAT),
    file_listing.JPEG_MASK: (ERROR, "JPEG changes the values: export the masks again, as PNG"),
}
"""Severity and advice for each kind of problem with the files of a split."""

SAME_SPLIT = "validation is on the images of training"

SAME_SIZE_ORIENTATIONS = range(2, 5)
"""EXIF orientations that keep height and width; higher ones swap them."""
MAX_VOID_SHARE = 0.5


@dataclass
class Finding:
    """A row of the report."""

    severity: str
    split: str
    what: str
    files: list[str]
    """All affected files; empty if the finding is about the split."""
    advice: str

    def __post_init__(self) -> None:
        self.what, self.files = shorten(self.what), [shorten(file) for file in self.files]


def check_split(split: Split, splits: Sequence[Split]) -> list[Finding]:
    """Return the findings about a split, of which all samples are examined, or some.

    Advice about mask values considers the masks of all splits, which share their settings.
    """
    return [
        *_check_listing(split),
        *_check_readable(split),
        *_check_sizes(split),
        *_check_images(split),
        *_check_palettes(split),
        *_check_values(split, splits),
        *_check_encodings(split),
        *_check_contents(split),
    ]


def class_counts(labels: LabelTable, mask: MaskFacts) -> np.ndarray:
    """Return the pixels of each class, int64 (256,): void at 255, invalid values at NO_CLASS."""
    return np.bincount(labels.map_values(mask.values), weights=mask.counts, minlength=256).astype(np.int64)


def _check_listing(split: Split) -> Iterator[Finding]:
    for kind, (severity, advice) in LISTING_PROBLEMS.items():
        if found := [problem.file for problem in split.problems if problem.kind == kind]:
            yield Finding(severity, split.name, kind, found, advice)


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
                other[facts.image_path] = "{1}x{0} and {3}x{2}".format(*image.size, *mask.size)
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
        yield Finding(WARNING, split.name, "image of a single colour", blank, "remove it, or download it again")
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


def _check_values(split: Split, splits: Sequence[Split]) -> Iterator[Finding]:
    labels = split.dataset.labels
    for is_colour in (False, True):  # advice differs for colours and indices
        pixels: Counter[np.integer] = Counter()
        files_of: dict[np.integer, list[str]] = {}
        for path, mask in split.masks:
            if (mask.values.dtype == COLOURS) == is_colour:
                is_invalid = labels.map_values(mask.values) == NO_CLASS
                for value, count in zip(mask.values[is_invalid], mask.counts[is_invalid].tolist(), strict=True):
                    pixels[value] += count
                    files_of.setdefault(value, []).append(path)
        if not pixels:
            continue
        ranked = [value for value, _ in pixels.most_common()]
        shown = ", ".join(
            f"{format_value(value)} ({pixels[value]:,} pixels, {_files(files_of[value])})" for value in ranked[:5]
        )
        more = f" and {len(ranked) - 5} more" if len(ranked) > 5 else ""
        paths = list(dict.fromkeys(path for value in ranked for path in files_of[value]))
        kind = "colour" if is_colour else "value"
        what = f"mask with a {kind} that is none of the {len(labels.classes)} classes: {shown}{more}"
        if is_colour and not labels.declares_colours:
            what = f"mask of colours, and data.dataset.palette is not set: {shown}{more}"
        masks = [mask.values for other in (split, *splits) for _, mask in other.masks]
        seen = np.concatenate([values for values in masks if (values.dtype == COLOURS) == is_colour])
        yield Finding(ERROR, split.name, what, paths, mask_checks.advise(labels, np.unique(seen)))


def _files(paths: Sequence[str]) -> str:
    return "1 file" if len(paths) == 1 else f"{len(paths):,} files"


def encoding(mask: MaskFacts) -> str:
    """Return how the mask stores classes."""
    if mask.values.dtype == COLOURS:
        return "RGB colours"
    if mask.values.dtype == np.uint16:
        return "16 bit"
    if mask.values.tolist() == [0, IGNORE_INDEX]:
        return "0 and 255"
    return {"P": "palette", "1": "1 bit"}.get(mask.header.mode, "index")


def _check_encodings(split: Split) -> Iterator[Finding]:
    labels, masks = split.dataset.labels, split.masks
    if lossy := [path for path, mask in masks if mask.header.format == "JPEG"]:
        yield Finding(WARNING, split.name, file_listing.JPEG_MASK, lossy, LISTING_PROBLEMS[file_listing.JPEG_MASK][1])
    kinds = {path: encoding(mask) for path, mask in masks}
    counts = Counter(kinds.values())
    if len(labels.classes) == 2 and labels.is_identity and counts["0 and 255"]:
        black_and_white = [path for path, kind in kinds.items() if kind == "0 and 255"]
        # 0 and 255 would be read as background and void.
        if not any(1 in mask.values for _, mask in masks):
            advice = mask_checks.advise_on_black_and_white(labels)
            yield Finding(ERROR, split.name, mask_checks.BLACK_AND_WHITE, black_and_white, advice)
        else:
            advice = "if they are binary masks, save all of them with the same values"
            what = "mask of 0 and 255 only, beside masks of class 1"
            yield Finding(WARNING, split.name, what, black_and_white, advice)
    # A mask of background and void may look like a binary one.
    groups = {{"palette": "index", "1 bit": "index", "0 and 255": "index"}.get(kind, kind) for kind in counts}
    if len(groups) > 1:
        what = f"masks are stored in different ways: {', '.join(f'{n} {kind}' for kind, n in counts.most_common())}"
        rare = [path for path, kind in kinds.items() if kind == counts.most_common()[-1][0]]
        yield Finding(WARNING, split.name, what, rare, "check that all are right")


def _check_palettes(split: Split) -> Iterator[Finding]:
    labels = split.dataset.labels
    first: dict[int, bytes] = {}
    differing = []
    conflicts: dict[int, int] = {}
    wrong: dict[str, str] = {}
    for path, mask in split.masks:
        palette = mask.header.palette
        if mask.values.dtype == np.uint8 and palette:
            used = {value: palette[3 * value : 3 * value + 3] for value in mask.values.tolist()}
            if any(first.setdefault(value, colour) != colour for value, colour in used.items()):
                differing.append(path)
            if found := mask_checks.palette_conflicts(labels, palette, used):
                conflicts |= found
                wrong[path] = mask_checks.describe_conflicts(labels, found, palette)
    if differing:
        advice = "an index has another colour than in earlier masks: were they saved with different palettes?"
        yield Finding(WARNING, split.name, "mask whose palette differs", differing, advice)
    if wrong:
        # Colours that nobody has declared may be those of other classes by coincidence.
        severity = ERROR if labels.declares_colours else WARNING
        what = f"{mask_checks.OTHER_ORDER} ({next(iter(wrong.values()))})"
        advice = mask_checks.advise_on_conflicts(labels, {} if differing else conflicts)
        yield Finding(severity, split.name, what, list(wrong), advice)


def _check_contents(split: Split) -> Iterator[Finding]:
    labels = split.dataset.labels
    counts = [(path, class_counts(labels, mask)) for path, mask in split.masks]
    if not counts:
        return
    void = [path for path, found in counts if found[IGNORE_INDEX] == found.sum()]
    if len(void) == len(counts):
        severity = WARNING if len(split.facts) < len(split.dataset) else ERROR
        advice = f"void is not trained on: {_advise_about_masks(labels)}"
        yield Finding(severity, split.name, f"all {len(void)} masks are void only", void, advice)
        return
    if void:
        yield Finding(
            WARNING, split.name, "mask that is void only", void, "it is not trained on: remove it, or label it"
        )
    total = np.sum([found for _, found in counts], axis=0)
    known = total[: len(labels.classes)]
    single = [path for path, found in counts if np.count_nonzero(found[: len(labels.classes)]) == 1]
    if np.count_nonzero(known) == 1 and not total[NO_CLASS]:
        only = labels.classes[int(known.argmax())]
        advice = f"the network will predict nothing else: {_advise_about_masks(labels)}"
        yield Finding(WARNING, split.name, f"all {len(counts)} masks contain {only} only", single, advice)
    elif single:
        yield Finding(NOTE, split.name, "mask of a single class", single, "")
    if total[IGNORE_INDEX] > MAX_VOID_SHARE * total.sum():
        share = f"{100 * total[IGNORE_INDEX] / total.sum():.0f} % of the pixels are void"
        yield Finding(WARNING, split.name, share, [], f"void is not trained on: {_advise_about_masks(labels)}")


def _advise_about_masks(labels: LabelTable) -> str:
    if labels.are_settings:
        return "is data.dataset.label_map right, and are these the masks?"
    return "are these the masks?"


def check_class_files(dataset: SegmentationDataset) -> Iterator[Finding]:
    """Find the class files of annotation tools near the images that name other classes than the dataset has."""
    others: dict[str, list[str]] = {}
    for path in find_class_files(dataset.root) if dataset.labels.are_settings else []:
        try:
            names = read_class_file(path).names
        except UserError as error:
            yield Finding(NOTE, "", "class file that cannot be read", [str(path)], str(error))
            continue
        if names != list(dataset.classes):
            others.setdefault(", ".join(names), []).append(str(path))
    for text, files in others.items():
        advice = f"if it belongs to the masks, set data.dataset.classes={Path(files[0]).relative_to(dataset.root)}"
        yield Finding(WARNING, "", f"class file with other classes: {shorten(text)}", files, advice)


def check_absent_classes(split: Split, trains: bool) -> Iterator[Finding]:
    """Find classes that do not occur in the split, of which all samples are examined."""
    labels = split.dataset.labels
    known = sum((class_counts(labels, mask) for _, mask in split.masks), start=np.zeros(256))
    if never := [name for k, name in enumerate(labels.classes) if not known[k]]:
        advice = "it cannot be learned" if trains else "it has no IoU"
        if trains and labels.are_settings:
            advice += ": is it in data.dataset.classes by mistake, or missing in data.dataset.label_map?"
        yield Finding(WARNING if trains else NOTE, split.name, f"no pixel of {', '.join(never)}", [], advice)
