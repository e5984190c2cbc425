"""Report of check_data as tables and JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from segframe import IGNORE_INDEX
from segframe.data.inspection import duplicates
from segframe.data.inspection.facts import mean_and_std
from segframe.data.inspection.finding import ERROR, NOTE, WARNING, Finding
from segframe.data.inspection.findings import check_class_files, check_split
from segframe.data.inspection.mask_findings import check_absent_classes, encoding
from segframe.data.inspection.splits import FoundSplits, Split
from segframe.data.label_map import NO_CLASS
from segframe.files import write_json

STYLES = {ERROR: "red", WARNING: "yellow", NOTE: "dim"}
"""By severity, the highest first."""


def table_rows(classes: Sequence[str]) -> dict[str, int]:
    """Names of the rows of a table of classes by which their pixels are counted: also void, and values of no class."""
    rows = {name: k for k, name in enumerate(classes)}
    for name, k in (("void", IGNORE_INDEX), ("no class", NO_CLASS)):
        while name in rows:  # a class may be called so
            name = f"({name})"
        rows[name] = k
    return rows


def summarize(split: Split) -> dict[str, Any]:
    """Count images, masks and classes over the files of a split that can be read, as written to JSON."""
    counts = [mask.class_counts for _, mask in split.masks]
    pixels = np.sum([np.zeros(256), *counts], axis=0)
    masks_with = np.sum([np.zeros(256), *(count > 0 for count in counts)], axis=0)
    return {
        "samples": len(split.dataset),
        "images_read": len(split.images),
        "masks_read": len(counts),
        "sizes": dict(Counter("{}x{}".format(*image.size) for _, image in split.images).most_common()),
        "normalize": _mean_and_std(split),
        "image_modes": dict(Counter(image.header.mode for _, image in split.images)),
        "mask_encodings": dict(Counter(encoding(mask) for _, mask in split.masks).most_common()),
        "classes": {
            name: {"pixels": int(pixels[k]), "share": pixels[k] / max(1, pixels.sum()), "images": int(masks_with[k])}
            for name, k in table_rows(split.dataset.classes).items()
            if pixels[k] or k != NO_CLASS
        },
    }


def _mean_and_std(split: Split) -> dict[str, list[float]]:
    if not split.images:
        return {}
    areas = [prod(image.size) for _, image in split.images]
    mean, std = mean_and_std(areas, [image.moments for _, image in split.images])
    return {"mean": mean.tolist(), "std": std.tolist()}


def normalize_line(split: Split) -> str:
    """Return the settings that normalize by the mean and standard deviation of a split's images, as typed."""
    return " ".join(f"'normalize.{key}={values}'".replace(" ", "") for key, values in _mean_and_std(split).items())


def all_findings(found: FoundSplits, train_split: str, val_split: str) -> list[Finding]:
    """Return all findings, the most severe first; all samples must be examined."""
    findings = [
        Finding(ERROR, name, "split that cannot be opened", [], reason) for name, reason in found.failed.items()
    ]
    for split in found.splits:
        findings += [
            *check_split(split, found.splits),
            *check_absent_classes(split, split.name == train_split),
            *duplicates.find_duplicates(split),
        ]
    findings += check_class_files(found.splits[0].dataset)
    findings += duplicates.find_shared_images(found.splits, train_split, val_split)
    findings += [
        Finding(NOTE, name, "split that is not checked", [], reason) for name, reason in found.left_out.items()
    ]
    return sorted(findings, key=lambda finding: list(STYLES).index(finding.severity))


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return a table of the findings, each with its first file and advice."""
    table = Table(title="findings", title_justify="left", show_lines=True)
    for name in ("", "split"):
        table.add_column(name)
    table.add_column("files", justify="right")
    table.add_column("finding, first file, advice", overflow="fold")
    for finding in findings:
        lines = [line for line in (finding.what, *finding.files[:1], finding.advice) if line]
        count = f"{len(finding.files):,}" if finding.files else ""
        table.add_row(finding.severity, finding.split, count, "\n".join(lines), style=STYLES[finding.severity])
    return table


def classes_table(split: Split) -> Table:
    """Return a table of the pixels, shares and images of each class of a split, and of void."""
    facts = summarize(split)
    masks = ", ".join(f"{count:,} {kind}" for kind, count in facts["mask_encodings"].items())
    title = f"{split.name}: {facts['images_read']:,} images of {_format_sizes(facts['sizes'])}; masks: {masks}"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for name in ("pixels", "pixels %", "images", "images %"):
        table.add_column(name, justify="right")
    rows = table_rows(split.dataset.classes)
    for name, row in facts["classes"].items():
        if rows[name] == IGNORE_INDEX:
            table.add_section()
        shares = (f"{100 * share:.2f}" for share in (row["share"], row["images"] / max(1, facts["masks_read"])))
        counts = (f"{row['pixels']:,}", f"{row['images']:,}")
        is_expected = row["pixels"] or rows[name] == IGNORE_INDEX
        style = STYLES[ERROR] if rows[name] == NO_CLASS else "" if is_expected else STYLES[WARNING]
        table.add_row(name, counts[0], next(shares), counts[1], next(shares), style=style)
    return table


def _format_sizes(sizes: Iterable[str]) -> str:
    ordered = sorted(sizes, key=lambda size: prod(map(int, size.split("x")))) or ["no size"]
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]} ({len(ordered)} sizes)"


def write_findings(path: Path, found: FoundSplits, findings: Sequence[Finding]) -> None:
    """Write the contents of the tables, and all files of every finding."""
    splits = {split.name: summarize(split) for split in found.splits}
    write_json(path, {"splits": splits, "findings": [asdict(each) for each in findings]})
