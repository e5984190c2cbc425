"""Findings about the masks of a split: values, colours, encodings, contents."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from segframe import IGNORE_INDEX
from segframe.data import mask_checks
from segframe.data.image_io import COLOURS
from segframe.data.inspection.facts import MaskFacts
from segframe.data.inspection.finding import ERROR, NOTE, WARNING, Finding
from segframe.data.inspection.splits import Split
from segframe.data.label_map import IGNORE, NO_CLASS, LabelTable, format_value
from segframe.errors import first_names

MAX_VOID_SHARE = 0.5
_VOID_NAME = re.compile(r"\W*(void|ignored?|un-?labell?ed|un-?annotated|don'?t.?care|undefined)\W*", re.IGNORECASE)
"""Names of classes that usually mean void."""


def check_masks(split: Split, splits: Sequence[Split]) -> Iterator[Finding]:
    """Find problems with masks; advice about values considers the masks of all splits, which share their settings."""
    yield from _check_palettes(split)
    yield from _check_values(split, splits)
    yield from _check_encodings(split)
    yield from _check_contents(split)
    if split is splits[0]:
        yield from _check_void_classes(splits)


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
        shown = first_names(
            [f"{format_value(value)} ({pixels[value]:,} pixels, {_files(files_of[value])})" for value in ranked]
        )
        paths = list(dict.fromkeys(path for value in ranked for path in files_of[value]))
        kind = "colour" if is_colour else "value"
        what = f"mask with a {kind} that is none of the {len(labels.classes)} classes: {shown}"
        if is_colour and not labels.palette:
            what = f"mask of colours, and data.dataset.palette is not set: {shown}"
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
    kinds = {path: encoding(mask) for path, mask in masks}
    counts = Counter(kinds.values())
    # 0 and 255 would be read as background and void.
    if black_and_white := [path for path, mask in masks if mask_checks.is_black_and_white(labels, mask.values)]:
        if not any(1 in mask.values for _, mask in masks):
            advice = mask_checks.advise_on_black_and_white(labels)
            yield Finding(ERROR, split.name, mask_checks.BLACK_AND_WHITE, black_and_white, advice)
        elif counts["0 and 255"]:
            advice = "if they are black and white masks, save all of them with the same values"
            what = "mask of 0 and 255 only, beside masks of class 1"
            yield Finding(WARNING, split.name, what, black_and_white, advice)
    if blended := [path for path, mask in masks if mask.has_alpha]:
        advice = "only the other channels are read: if the labels are in the alpha channel, save it as grey PNG"
        yield Finding(WARNING, split.name, "mask whose alpha channel differs", blended, advice)
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
        palette = mask.header.palette or mask_checks.GREY_RAMP
        if mask.values.dtype == np.uint8:
            used = {value: palette[3 * value : 3 * value + 3] for value in mask.values.tolist()}
            if mask.header.palette and any(first.setdefault(value, used[value]) != used[value] for value in used):
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
        what = f"{mask_checks.PALETTE_MISMATCH} ({next(iter(wrong.values()))})"
        advice = mask_checks.advise_on_conflicts(labels, {} if differing else conflicts)
        yield Finding(severity, split.name, what, list(wrong), advice)


def _check_contents(split: Split) -> Iterator[Finding]:
    labels = split.dataset.labels
    counts = [(path, mask.class_counts) for path, mask in split.masks]
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
            WARNING, split.name, "mask that is void only", void, "nothing is learned from it until it is labelled"
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


def _check_void_classes(splits: Sequence[Split]) -> Iterator[Finding]:
    # Classes named like void that occur in the masks.
    labels = splits[0].dataset.labels
    masks = [mask for split in splits for _, mask in split.masks]
    for k, name in enumerate(labels.classes if labels.are_settings else []):
        used = [(mask.values, labels.map_values(mask.values) == k) for mask in masks]
        values = {format_value(value): IGNORE for raw, is_used in used for value in raw[is_used]}
        if values and _VOID_NAME.fullmatch(name):
            keys = {int(value) if value.isdecimal() else value: target for value, target in values.items()}
            advice = f"if its pixels are not to count, set {labels.format_label_map(keys)}"
            yield Finding(WARNING, splits[0].name, f"{name} is trained and counted like any class", [], advice)


def _advise_about_masks(labels: LabelTable) -> str:
    if labels.are_settings:
        return "set data.dataset.masks to the folder of the masks, or data.dataset.label_map to their values"
    return "are these the masks?"


def _classes_without(labels: LabelTable, never: Sequence[str]) -> str:
    # The settings that leave classes out, as typed.
    kept = [k for k, name in enumerate(labels.classes) if name not in never]
    if labels.declares_colours or not labels.is_identity:
        return "take it out of data.dataset.classes, palette and label_map"
    classes = f"'data.dataset.classes=[{','.join(labels.classes[k] for k in kept)}]'"
    moved = {k: new for new, k in enumerate(kept) if k != new}
    return f"{classes} {labels.format_label_map(moved)}" if moved else classes


def check_absent_classes(split: Split, trains: bool) -> Iterator[Finding]:
    """Find classes that do not occur in the split, of which all samples are examined."""
    labels = split.dataset.labels
    known = sum((mask.class_counts for _, mask in split.masks), start=np.zeros(256))[: len(labels.classes)]
    absent = [name for name, count in zip(labels.classes, known, strict=True) if not count and known.any()]
    if never := [name for name in absent if not _VOID_NAME.fullmatch(name)]:
        advice = "it cannot be learned" if trains else "it has no IoU, and the mean is over the others"
        if labels.are_settings:
            other = (
                "data.dataset.label_map={...} with its mask values" if trains else "data.val_split=... that shows it"
            )
            advice += f": type {other}"
            if len(labels.classes) - len(never) > 1:
                advice += f", or if no image shows it {_classes_without(labels, never)}"
        yield Finding(WARNING if trains else NOTE, split.name, f"no pixel of {', '.join(never)}", [], advice)
