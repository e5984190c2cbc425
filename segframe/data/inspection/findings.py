"""Findings about a split: errors that would stop a training, warnings about silent problems, notes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data import file_listing, split_lists
from segframe.data.image_io import COLOURS
from segframe.data.inspection.facts import Facts, ImageFacts, MaskFacts
from segframe.data.inspection.splits import Split
from segframe.data.label_map import NO_CLASS, LabelTable, format_value

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
    details: list[dict[str, object]] = field(default_factory=list)
    """For each value: value, pixels, files, first file."""


Pairs = Sequence[tuple[Facts, ImageFacts, MaskFacts]]
"""Samples whose image and mask can be read."""
Masks = Sequence[tuple[str, MaskFacts]]
"""Paths and properties of the masks that can be read."""


def check_split(split: Split, splits: Sequence[Split]) -> list[Finding]:
    """Return the findings about a split, of which all samples are examined, or some.

    Advice about mask values considers the masks of all splits, which share their settings.
    """
    labels, name = split.dataset.labels, split.name
    pairs = [
        (facts, facts.image, facts.mask)
        for facts in split.facts
        if not isinstance(facts.image, str) and not isinstance(facts.mask, str)
    ]
    masks = _masks(split)
    all_masks = [pair for other in (split, *splits) for pair in _masks(other)]
    checks: tuple[Iterable[Finding], ...] = (
        _check_listing(split),
        _check_readable(split),
        _check_sizes(name, pairs),
        _check_orientations(name, pairs),
        _check_images(name, [(facts.image_path, facts.image) for facts in split.facts]),
        _check_values(name, labels, masks, all_masks),
        _check_encodings(name, labels, masks),
        _check_contents(name, labels, masks, len(split.facts) < len(split.dataset)),
    )
    return [finding for check in checks for finding in check]


def _masks(split: Split) -> Masks:
    return [(facts.mask_path, facts.mask) for facts in split.facts if not isinstance(facts.mask, str)]


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


def _check_sizes(split: str, pairs: Pairs) -> Iterator[Finding]:
    differ = [(facts, image, mask) for facts, image, mask in pairs if image.size != mask.size]
    rotated = [pair for pair in differ if _is_rotated(*pair[1:])]
    other = [pair for pair in differ if not _is_rotated(*pair[1:])]
    if rotated:
        advice = "rotate the masks, or remove the orientation from the photos (exiftran -a)"
        what = "image that is rotated by its EXIF orientation, and its mask is not"
        yield Finding(ERROR, split, what, [facts.image_path for facts, _, _ in rotated], advice)
    if other:
        _, image, mask = other[0]
        sizes = "{1}x{0} and {3}x{2}".format(*image.size, *mask.size)
        what = f"image and mask of different sizes ({sizes}, for example)"
        advice = "resize both, the mask by nearest neighbour, or neither"
        yield Finding(ERROR, split, what, [facts.image_path for facts, _, _ in other], advice)


def _is_rotated(image: ImageFacts, mask: MaskFacts) -> bool:
    is_rotated = max(image.header.orientation, mask.header.orientation) > SAME_SIZE_ORIENTATIONS[-1]
    return is_rotated and image.size == mask.size[::-1]


def _check_orientations(split: str, pairs: Pairs) -> Iterator[Finding]:
    found = [
        facts.image_path
        for facts, image, mask in pairs
        if image.header.orientation != mask.header.orientation
        and image.size == mask.size
        and (image.header.orientation in SAME_SIZE_ORIENTATIONS or image.size[0] == image.size[1])
    ]
    if found:
        what = "image that is rotated or mirrored by its EXIF orientation, and its mask is not"
        yield Finding(WARNING, split, what, found, "check that they match: the mask must be drawn on the upright image")


def _check_images(split: str, images: Sequence[tuple[str, ImageFacts | str]]) -> Iterator[Finding]:
    known = [(path, image) for path, image in images if not isinstance(image, str)]
    if blank := [path for path, image in known if image.is_blank]:
        yield Finding(WARNING, split, "image of a single colour", blank, "remove it, or download it again")
    others = sorted({image.header.mode for _, image in known} - {"RGB"})
    for mode in others:
        found = [path for path, image in known if image.header.mode == mode]
        advice = "is read as RGB" if mode != "CMYK" else "is read as RGB: check that the colours are right"
        yield Finding(NOTE, split, f"image of mode {mode}", found, advice)


def _check_values(split: str, labels: LabelTable, masks: Masks, all_masks: Masks) -> Iterator[Finding]:
    # Advice differs for colours and indices.
    for is_colour in (False, True):
        pixels: Counter[int] = Counter()
        files_of: dict[int, list[str]] = {}
        for path, mask in masks:
            if (mask.values.dtype == COLOURS) != is_colour:
                continue
            is_invalid = labels.map_values(mask.values) == NO_CLASS
            for value, count in zip(mask.values[is_invalid].tolist(), mask.counts[is_invalid].tolist(), strict=True):
                pixels[value] += count
                files_of.setdefault(value, []).append(path)
        if not pixels:
            continue
        seen = [mask.values for _, mask in all_masks if (mask.values.dtype == COLOURS) == is_colour]
        values = np.unique(np.concatenate(seen)).astype(COLOURS if is_colour else np.uint16)
        texts = {int(value): format_value(value) for value in values}
        ranked = pixels.most_common()
        shown = ", ".join(f"{texts[value]} ({n:,} pixels, {_files(files_of[value])})" for value, n in ranked[:5])
        more = f" and {len(ranked) - 5} more" if len(ranked) > 5 else ""
        details = [
            {"value": texts[value], "pixels": n, "files": len(files_of[value]), "first": files_of[value][0]}
            for value, n in ranked
        ]
        paths = list(dict.fromkeys(path for value, _ in ranked for path in files_of[value]))
        kind = "colour" if is_colour else "value"
        what = f"mask with a {kind} that is none of the {len(labels.classes)} classes: {shown}{more}"
        yield Finding(ERROR, split, what, paths, labels.advice(values), details)


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


def _check_encodings(split: str, labels: LabelTable, masks: Masks) -> Iterator[Finding]:
    if lossy := [path for path, mask in masks if mask.header.format == "JPEG"]:
        yield Finding(WARNING, split, file_listing.JPEG_MASK, lossy, LISTING_PROBLEMS[file_listing.JPEG_MASK][1])
    kinds = {path: encoding(mask) for path, mask in masks}
    counts = Counter(kinds.values())
    if len(labels.classes) == 2 and labels.is_identity and counts["0 and 255"]:
        black_and_white = [path for path, kind in kinds.items() if kind == "0 and 255"]
        # 0 and 255 would be read as background and void.
        if not any(1 in mask.values for _, mask in masks):
            advice = "are they binary? Then save them with the values 0 and 1"
            if labels.are_settings:
                binary, void = (labels.format_label_map({IGNORE_INDEX: target}) for target in (1, "ignore"))
                advice = f"for binary masks set {binary}; if 255 is void, set {void}"
            yield Finding(ERROR, split, "mask of 0 and 255 only, and 255 is void", black_and_white, advice)
        else:
            advice = "if they are binary masks, save all of them with the same values"
            yield Finding(WARNING, split, "mask of 0 and 255 only, beside masks of class 1", black_and_white, advice)
    # A mask of background and void may look like a binary one.
    groups = {{"palette": "index", "1 bit": "index", "0 and 255": "index"}.get(kind, kind) for kind in counts}
    if len(groups) > 1:
        stored = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
        rare = [path for path, kind in kinds.items() if kind == counts.most_common()[-1][0]]
        yield Finding(WARNING, split, f"masks are stored in different ways: {stored}", rare, "check that all are right")
    yield from _check_palettes(split, masks)


def _check_palettes(split: str, masks: Masks) -> Iterator[Finding]:
    first: dict[int, bytes] = {}
    found = []
    for path, mask in masks:
        palette = mask.header.palette
        if mask.values.dtype == np.uint8 and palette:
            used = {value: palette[3 * value : 3 * value + 3] for value in mask.values.tolist()}
            if any(first.setdefault(value, colour) != colour for value, colour in used.items()):
                found.append(path)
    if found:
        advice = "an index has another colour than in earlier masks: were they saved with different palettes?"
        yield Finding(WARNING, split, "mask whose palette differs", found, advice)


def _check_contents(split: str, labels: LabelTable, masks: Masks, is_sample: bool) -> Iterator[Finding]:
    counts = [(path, class_counts(labels, mask)) for path, mask in masks]
    if not counts:
        return
    void = [path for path, found in counts if found[IGNORE_INDEX] == found.sum()]
    if len(void) == len(counts):
        severity = WARNING if is_sample else ERROR
        what = f"all {len(void)} masks are void only"
        yield Finding(severity, split, what, void, f"void is not trained on: {_advise_about_masks(labels)}")
        return
    if void:
        yield Finding(WARNING, split, "mask that is void only", void, "it is not trained on: remove it, or label it")
    total = np.sum([found for _, found in counts], axis=0)
    known = total[: len(labels.classes)]
    single = [path for path, found in counts if np.count_nonzero(found[: len(labels.classes)]) == 1]
    if np.count_nonzero(known) == 1 and not total[NO_CLASS]:
        only = labels.classes[int(known.argmax())]
        advice = f"the network will predict nothing else: {_advise_about_masks(labels)}"
        yield Finding(WARNING, split, f"all {len(counts)} masks contain {only} only", single, advice)
    elif single:
        yield Finding(NOTE, split, "mask of a single class", single, "")
    if total[IGNORE_INDEX] > MAX_VOID_SHARE * total.sum():
        share = f"{100 * total[IGNORE_INDEX] / total.sum():.0f} % of the pixels are void"
        yield Finding(WARNING, split, share, [], f"void is not trained on: {_advise_about_masks(labels)}")


def _advise_about_masks(labels: LabelTable) -> str:
    if labels.are_settings:
        return "is data.dataset.label_map right, and are these the masks?"
    return "are these the masks?"


def check_absent_classes(split: Split, trains: bool) -> Iterator[Finding]:
    """Find classes that do not occur in the split, of which all samples are examined."""
    labels = split.dataset.labels
    masks = [facts.mask for facts in split.facts if not isinstance(facts.mask, str)]
    known = np.sum([class_counts(labels, mask) for mask in masks], axis=0) if masks else np.zeros(256)
    if never := [name for k, name in enumerate(labels.classes) if not known[k]]:
        advice = "it cannot be learned" if trains else "it has no IoU"
        if trains and labels.are_settings:
            advice += ": is it in data.dataset.classes by mistake, or missing in data.dataset.label_map?"
        yield Finding(WARNING if trains else NOTE, split.name, f"no pixel of {', '.join(never)}", [], advice)
