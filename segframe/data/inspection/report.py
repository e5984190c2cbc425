"""Report of check_data as tables and JSON."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from segframe import IGNORE_INDEX
from segframe.data.inspection import duplicates
from segframe.data.inspection.facts import ImageFacts, MaskFacts
from segframe.data.inspection.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    check_absent_classes,
    check_split,
    class_counts,
    encoding,
)
from segframe.data.inspection.splits import FoundSplits, Split
from segframe.data.label_map import NO_CLASS
from segframe.files import write_text

STYLES = {ERROR: "red", WARNING: "yellow", NOTE: "dim"}
"""By severity, the highest first."""
NO_CLASS_ROW = "no class"
"""Name of the table row that counts pixels whose value is neither a class nor void."""


@dataclass
class Summary:
    """Counts over the files of a split that can be read."""

    num_images: int
    num_masks: int
    sizes: Counter[tuple[int, int]]
    """Number of images of each size (height, width)."""
    modes: Counter[str]
    """Images of each mode of Pillow."""
    encodings: Counter[str]
    """Masks of each encoding."""
    pixels: np.ndarray
    """Pixels of each class, int64 (256,), void at 255."""
    images: np.ndarray
    """Images that contain each class, int64 (256,)."""

    def format_sizes(self) -> str:
        """Return the size as `480x360`, or the smallest and the largest."""
        if not self.sizes:
            return "no size"
        ordered = [f"{width}x{height}" for height, width in sorted(self.sizes, key=lambda size: size[0] * size[1])]
        return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]} ({len(ordered)} sizes)"


def summarize(split: Split) -> Summary:
    """Count images, masks and classes of a split."""
    images = [facts.image for facts in split.facts if isinstance(facts.image, ImageFacts)]
    masks = [facts.mask for facts in split.facts if isinstance(facts.mask, MaskFacts)]
    counts = np.array([class_counts(split.dataset.labels, mask) for mask in masks], np.int64).reshape(-1, 256)
    return Summary(
        len(images),
        len(masks),
        Counter(image.size for image in images),
        Counter(image.header.mode for image in images),
        Counter(encoding(mask) for mask in masks),
        counts.sum(axis=0),
        (counts > 0).sum(axis=0),
    )


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
    masks = ", ".join(f"{count:,} {kind}" for kind, count in facts.encodings.most_common())
    title = f"{split.name}: {facts.num_images:,} images of {facts.format_sizes()}; masks: {masks}"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for name in ("pixels", "pixels %", "images", "images %"):
        table.add_column(name, justify="right")
    for name, row in _class_rows(split, facts):
        if name == "void":
            table.add_section()
        shares = (f"{100 * share:.2f}" for share in (row["share"], row["images"] / max(1, facts.num_masks)))
        counts = (f"{row['pixels']:,}", f"{row['images']:,}")
        style = STYLES[ERROR] if name == NO_CLASS_ROW else "" if row["pixels"] or name == "void" else STYLES[WARNING]
        table.add_row(name, counts[0], next(shares), counts[1], next(shares), style=style)
    return table


def write_json(path: Path, found: FoundSplits, findings: Sequence[Finding]) -> None:
    """Write the contents of the tables, and all files of every finding."""
    splits = {}
    for split in found.splits:
        facts = summarize(split)
        splits[split.name] = {
            "samples": len(split.dataset),
            "images_read": facts.num_images,
            "masks_read": facts.num_masks,
            "sizes": {f"{width}x{height}": count for (height, width), count in facts.sizes.most_common()},
            "image_modes": dict(facts.modes),
            "mask_encodings": dict(facts.encodings),
            "classes": dict(_class_rows(split, facts)),
        }
    contents = {"splits": splits, "findings": [asdict(finding) for finding in findings]}
    write_text(path, json.dumps(contents, indent=2) + "\n")


def _class_rows(split: Split, facts: Summary) -> Iterator[tuple[str, dict[str, float]]]:
    total = max(1, int(facts.pixels.sum()))
    rest = [("void", IGNORE_INDEX), *([(NO_CLASS_ROW, NO_CLASS)] if facts.pixels[NO_CLASS] else [])]
    for name, k in [*((name, k) for k, name in enumerate(split.dataset.classes)), *rest]:
        pixels = int(facts.pixels[k])
        yield name, {"pixels": pixels, "share": pixels / total, "images": int(facts.images[k])}
