"""The program check_data: read every image and mask of a dataset and report problems."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from segframe.config import validate
from segframe.config.composition import output_folder, typed_overrides
from segframe.config.instantiate import instantiate
from segframe.config.schema import CheckDataConfig
from segframe.data.inspection import report, splits
from segframe.data.inspection.finding import ERROR, NOTE, WARNING, Finding
from segframe.errors import error_context
from segframe.visualization.tables import print_table


class DataReport(NamedTuple):
    """Result of check_data: findings, and the settings with which the data were read."""

    findings: list[Finding]
    """The most severe first."""
    settings: list[str]
    """The settings of the data, as typed: segframe.train(*settings) trains on it."""
    path: Path
    """check_data.json."""


def check_data(config: DictConfig) -> None:
    """Print all findings; the exit code is 1 if one is an error."""
    if any(finding.severity == ERROR for finding in report_data(config).findings):
        sys.exit(1)


def report_data(config: DictConfig) -> DataReport:
    """Read every file once, print and return all findings."""
    validate.check_keys(config, CheckDataConfig)
    validate.check_parts(config)
    validate.check_targets(config)
    make_dataset = instantiate(config.data.dataset, "data.dataset")
    with error_context("data"):
        if config.data.download:
            make_dataset.func.download(config.data.root)
        found = splits.find_splits(make_dataset, config.data, config.splits)
    start = time.perf_counter()
    count = splits.examine_all(found.splits, config.data.num_workers)
    seconds = time.perf_counter() - start
    findings = report.all_findings(found, config.data.train_split, config.data.val_split)
    path = output_folder() / "check_data.json"
    for target in (path, *([Path(config.json)] if config.json else [])):
        report.write_findings(target, found, findings)
    # Wide enough for paths if the output is a file.
    width = None if sys.stdout.isatty() else 120
    for split in found.splits:
        print_table(report.classes_table(split), highlight=False, width=width)
    if findings:
        print_table(report.findings_table(findings), highlight=False, width=width)
    for split in found.splits:
        if split.name == config.data.train_split and split.images:
            print(f"to normalize by the mean and standard deviation of {split.name}: {report.normalize_line(split)}")
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in (ERROR, WARNING, NOTE)}
    summary = ", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in counts.items())
    print(f"{summary}; {count:,} images and masks in {seconds:.1f} s; all files in {path}")
    return DataReport(findings, [word for word in typed_overrides() if word.startswith(("data=", "data."))], path)
