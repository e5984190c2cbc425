"""From facts to findings: what would end a training, what would spoil it silently, and what is good to know."""

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

KINDS = {
    file_listing.NO_IMAGE: (WARNING, "delete it, or bring its image"),
    file_listing.NO_MASK: (ERROR, "bring its mask, or take the image out of the folder or list"),
    file_listing.LOST: (ERROR, "bring the file, or take the line out"),
    file_listing.TWINS: (ERROR, "keep one of them"),
    file_listing.TWICE: (ERROR, "list it once"),
    file_listing.UNREADABLE: (ERROR, split_lists.LINE),
    file_listing.LOSSY: (ERROR, "JPEG changes the values: export the masks again, as PNG"),
}
"""How much a problem with a split's listing matters, and what to do."""

ONE_SPLIT = "validation is on the images of training"
"""What is wrong where data.train_split and data.val_split are the same."""

MIRRORED = range(2, 5)
"""EXIF's orientations that keep height and width; those above swap them."""
MUCH_VOID = 0.5


@dataclass
class Finding:
    """One line of the report."""

    severity: str
    split: str
    what: str
    files: list[str]
    """All that show it, the first one first; empty where it is about the split."""
    advice: str
    details: list[dict[str, object]] = field(default_factory=list)
    """Per value: value, pixels, files, first file."""


Pairs = Sequence[tuple[Facts, ImageFacts, MaskFacts]]
"""The samples whose files can both be read."""
Masks = Sequence[tuple[str, MaskFacts]]
"""The masks that can be read, by their paths."""


def of_split(split: Split, splits: Sequence[Split]) -> list[Finding]:
    """Return what is found in a split by itself, of which all facts are known, or some.

    What is wrong with values is cured for all the splits at once, which share their settings.
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
        _listing(split),
        _unreadable(split),
        _sizes(name, pairs),
        _orientations(name, pairs),
        _images(name, [(facts.image_path, facts.image) for facts in split.facts]),
        _values(name, labels, masks, all_masks),
        _encodings(name, labels, masks),
        _contents(name, labels, masks, len(split.facts) < len(split.dataset)),
    )
    return [finding for check in checks for finding in check]


def _masks(split: Split) -> Masks:
    return [(facts.mask_path, facts.mask) for facts in split.facts if not isinstance(facts.mask, str)]


def class_counts(labels: LabelTable, mask: MaskFacts) -> np.ndarray:
    """Return the pixels of each class, int64 (256,): the void's at 255, those of values that are none at NO_CLASS."""
    return np.bincount(labels.map_values(mask.values), weights=mask.counts, minlength=256).astype(np.int64)


def _listing(split: Split) -> Iterator[Finding]:
    for kind, (severity, advice) in KINDS.items():
        if found := [problem.file for problem in split.problems if problem.kind == kind]:
            yield Finding(severity, split.name, kind, found, advice)


def _unreadable(split: Split) -> Iterator[Finding]:
    for kind in ("image", "mask"):
        failed = [(getattr(facts, f"{kind}_path"), getattr(facts, kind)) for facts in split.facts]
        if failed := [(path, told) for path, told in failed if isinstance(told, str)]:
            paths = [path for path, _ in failed]
            yield Finding(ERROR, split.name, f"{kind} that cannot be read", paths, failed[0][1])


def _sizes(split: str, pairs: Pairs) -> Iterator[Finding]:
    differ = [(facts, image, mask) for facts, image, mask in pairs if image.size != mask.size]
    turned = [pair for pair in differ if _is_turned(*pair[1:])]
    other = [pair for pair in differ if not _is_turned(*pair[1:])]
    if turned:
        advice = (
            "image and mask must lie alike: turn the masks, or take the orientation out of the photos (exiftran -a)"
        )
        what = "image that its EXIF orientation turns, and its mask not"
        yield Finding(ERROR, split, what, [facts.image_path for facts, _, _ in turned], advice)
    if other:
        _, image, mask = other[0]
        sizes = "{1}x{0} and {3}x{2}".format(*image.size, *mask.size)
        what = f"image and mask of different sizes ({sizes}, for one)"
        advice = "resize both, the mask by nearest neighbour, or neither"
        yield Finding(ERROR, split, what, [facts.image_path for facts, _, _ in other], advice)


def _is_turned(image: ImageFacts, mask: MaskFacts) -> bool:
    lying = max(image.header.orientation, mask.header.orientation) > MIRRORED[-1]
    return lying and image.size == mask.size[::-1]


def _orientations(split: str, pairs: Pairs) -> Iterator[Finding]:
    found = [
        facts.image_path
        for facts, image, mask in pairs
        if image.header.orientation != mask.header.orientation
        and image.size == mask.size
        and (image.header.orientation in MIRRORED or image.size[0] == image.size[1])
    ]
    if found:
        what = "image that its EXIF orientation turns or mirrors, and its mask not, of one size all the same"
        yield Finding(WARNING, split, what, found, "look whether they fit: the mask must be drawn on the upright image")


def _images(split: str, images: Sequence[tuple[str, ImageFacts | str]]) -> Iterator[Finding]:
    known = [(path, image) for path, image in images if not isinstance(image, str)]
    if blank := [path for path, image in known if image.is_blank]:
        yield Finding(WARNING, split, "image of a single colour", blank, "leave it out, or fetch it again")
    others = sorted({image.header.mode for _, image in known} - {"RGB"})
    for mode in others:
        found = [path for path, image in known if image.header.mode == mode]
        advice = "is read as RGB" if mode != "CMYK" else "is read as RGB: look whether the colours are right"
        yield Finding(NOTE, split, f"image of mode {mode}", found, advice)


def _values(split: str, labels: LabelTable, masks: Masks, all_masks: Masks) -> Iterator[Finding]:
    # Colours and indices are other values, with other cures.
    for is_colour in (False, True):
        pixels: Counter[int] = Counter()
        where: dict[int, list[str]] = {}
        for path, mask in masks:
            if (mask.values.dtype == COLOURS) != is_colour:
                continue
            wrong = labels.map_values(mask.values) == NO_CLASS
            for value, count in zip(mask.values[wrong].tolist(), mask.counts[wrong].tolist(), strict=True):
                pixels[value] += count
                where.setdefault(value, []).append(path)
        if not pixels:
            continue
        seen = [mask.values for _, mask in all_masks if (mask.values.dtype == COLOURS) == is_colour]
        values = np.unique(np.concatenate(seen)).astype(COLOURS if is_colour else np.uint16)
        spelt = {int(value): format_value(value) for value in values}
        ranked = pixels.most_common()
        shown = ", ".join(f"{spelt[value]} ({n:,} pixels, {_files(where[value])})" for value, n in ranked[:5])
        more = f" and {len(ranked) - 5} more" if len(ranked) > 5 else ""
        details = [
            {"value": spelt[value], "pixels": n, "files": len(where[value]), "first": where[value][0]}
            for value, n in ranked
        ]
        paths = list(dict.fromkeys(path for value, _ in ranked for path in where[value]))
        kind = "colour" if is_colour else "value"
        what = f"mask with a {kind} that is none of the {len(labels.classes)} classes: {shown}{more}"
        yield Finding(ERROR, split, what, paths, labels.advice(values), details)


def _files(paths: Sequence[str]) -> str:
    return "1 file" if len(paths) == 1 else f"{len(paths):,} files"


def encoding(mask: MaskFacts) -> str:
    """Return how a mask stores its classes."""
    if mask.values.dtype == COLOURS:
        return "RGB colours"
    if mask.values.dtype == np.uint16:
        return "16 bit"
    if mask.values.tolist() == [0, IGNORE_INDEX]:
        return "0 and 255"
    return {"P": "palette", "1": "1 bit"}.get(mask.header.mode, "index")


def _encodings(split: str, labels: LabelTable, masks: Masks) -> Iterator[Finding]:
    if lossy := [path for path, mask in masks if mask.header.format == "JPEG"]:
        yield Finding(WARNING, split, file_listing.LOSSY, lossy, KINDS[file_listing.LOSSY][1])
    kinds = {path: encoding(mask) for path, mask in masks}
    counts = Counter(kinds.values())
    if len(labels.classes) == 2 and labels.is_identity and counts["0 and 255"]:
        black_and_white = [path for path, kind in kinds.items() if kind == "0 and 255"]
        # {0, 255} passes for background and void, and would train on nothing.
        if not any(1 in mask.values for _, mask in masks):
            advice = "are they binary? Then save them with the values 0 and 1"
            if labels.are_settings:
                binary, void = (labels.format_label_map({IGNORE_INDEX: target}) for target in (1, "ignore"))
                advice = f"for binary masks set {binary}; where 255 is the void, set {void}"
            yield Finding(ERROR, split, "mask of 0 and 255 alone, which is the void", black_and_white, advice)
        else:
            advice = "if they are binary masks, save all of them with the same values"
            yield Finding(WARNING, split, "mask of 0 and 255 alone, beside masks of class 1", black_and_white, advice)
    # A mask of background and void looks like a binary one.
    groups = {{"palette": "index", "1 bit": "index", "0 and 255": "index"}.get(kind, kind) for kind in counts}
    if len(groups) > 1:
        told = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
        rare = [path for path, kind in kinds.items() if kind == counts.most_common()[-1][0]]
        yield Finding(WARNING, split, f"masks are stored in different ways: {told}", rare, "look whether all are right")
    yield from _palettes(split, masks)


def _palettes(split: str, masks: Masks) -> Iterator[Finding]:
    first: dict[int, bytes] = {}
    found = []
    for path, mask in masks:
        palette = mask.header.palette
        if mask.values.dtype == np.uint8 and palette:
            used = {value: palette[3 * value : 3 * value + 3] for value in mask.values.tolist()}
            if any(first.setdefault(value, colour) != colour for value, colour in used.items()):
                found.append(path)
    if found:
        advice = "an index has another colour than in earlier masks: was each saved with a palette of its own?"
        yield Finding(WARNING, split, "mask whose palette differs", found, advice)


def _contents(split: str, labels: LabelTable, masks: Masks, is_sample: bool) -> Iterator[Finding]:
    counts = [(path, class_counts(labels, mask)) for path, mask in masks]
    if not counts:
        return
    void = [path for path, found in counts if found[IGNORE_INDEX] == found.sum()]
    if len(void) == len(counts):
        severity = WARNING if is_sample else ERROR
        what = f"each of {len(void)} masks is all void"
        yield Finding(severity, split, what, void, f"nothing can be learnt from void: {_doubt(labels)}")
        return
    if void:
        yield Finding(WARNING, split, "mask that is all void", void, "it teaches nothing: leave it out, or label it")
    total = np.sum([found for _, found in counts], axis=0)
    known = total[: len(labels.classes)]
    single = [path for path, found in counts if np.count_nonzero(found[: len(labels.classes)]) == 1]
    if np.count_nonzero(known) == 1 and not total[NO_CLASS]:
        only = labels.classes[int(known.argmax())]
        advice = f"a network learns to say nothing else: {_doubt(labels)}"
        yield Finding(WARNING, split, f"each of {len(counts)} masks holds {only} alone", single, advice)
    elif single:
        yield Finding(NOTE, split, "mask of a single class", single, "")
    if total[IGNORE_INDEX] > MUCH_VOID * total.sum():
        share = f"{100 * total[IGNORE_INDEX] / total.sum():.0f} % of the pixels are void"
        yield Finding(WARNING, split, share, [], f"void counts nowhere: {_doubt(labels)}")


def _doubt(labels: LabelTable) -> str:
    if labels.are_settings:
        return "is data.dataset.label_map right, and are these the masks?"
    return "are these the masks?"


def absent(split: Split, trains: bool) -> Iterator[Finding]:
    """Find classes that never occur; only once all facts are known."""
    labels = split.dataset.labels
    masks = [facts.mask for facts in split.facts if not isinstance(facts.mask, str)]
    known = np.sum([class_counts(labels, mask) for mask in masks], axis=0) if masks else np.zeros(256)
    if never := [name for k, name in enumerate(labels.classes) if not known[k]]:
        advice = "it cannot be learnt" if trains else "it has no figure"
        if trains and labels.are_settings:
            advice += ": is it in data.dataset.classes by mistake, or lost in data.dataset.label_map?"
        yield Finding(WARNING if trains else NOTE, split.name, f"no pixel of {', '.join(never)}", [], advice)
