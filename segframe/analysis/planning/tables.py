"""Tables of a plan for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from segframe.analysis.planning.decision import Decision
from segframe.analysis.planning.experiment_file import as_yaml
from segframe.analysis.planning.facts import DataFacts, MachineFacts, Size, StepFacts, ValidationFacts
from segframe.visualization.tables import empty_table

MOST_CLASSES = 24
"""Rows of the table of classes, the rarest ones."""

MOST_CHARACTERS = 60
"""Maximum length of a value in the table."""


def data_table(data: DataFacts) -> Table:
    bits = 8 if data.max_value == 255 else 16
    sizes = (data.val_size, data.val_largest, data.size, data.smallest, data.largest)
    val_median, val_largest, median, smallest, largest = map(format_size, sizes)
    return facts_table(
        "data",
        {
            "training images": f"{data.train_images:,}, {data.examined:,} read",
            "validation images": f"{data.val_images:,}, median {val_median}, largest {val_largest}",
            "size": f"median {median}, from {smallest} to {largest} (height x width)",
            "channels": f"{data.channels} of {bits} bits",
            "void": f"{data.void:.1%} of the pixels",
            "decoded": f"{data.decoded_bytes / 1e9:.2g} GB",
        },
    )


def classes_table(data: DataFacts) -> Table:
    """Return a row per class, the most frequent first."""
    ordered = sorted(data.classes, key=lambda each: -each.share)
    hidden = len(ordered) - MOST_CLASSES
    title = f"classes, the {MOST_CLASSES} rarest of {len(ordered)}" if hidden > 0 else "classes"
    header = ("class", "labelled pixels %", "images %", "in windows of 1/2 %", "of 1/4 %", "small objects, px wide")
    table = empty_table(header, title)
    for each in ordered[max(0, hidden) :]:
        shares = (each.share, each.images, each.seen(0.5), each.seen(0.25))
        table.add_row(each.name, *map(percent, shares), f"{each.width:.1f}")
    return table


def machine_table(machine: MachineFacts, step: StepFacts, validation: ValidationFacts) -> Table:
    seconds, loading, reading = map(format_seconds, (step.seconds, step.sample_seconds, step.read_seconds))
    peak = "" if step.peak_bytes is None else f", {step.peak_bytes / 1e9:.2g} GB"
    return facts_table(
        "machine",
        {
            "device": machine.device,
            "memory": "unknown" if machine.device_bytes is None else f"{machine.device_bytes / 1e9:.3g} GB free",
            "step": f"{step.batch} crops of {format_size(step.size)} in {step.precision}: {seconds}{peak}",
            "loading": f"{loading} per crop, {reading} of it for reading",
            "validation": f"{format_seconds(validation.seconds)} per image",
        },
    )


def facts_table(title: str, facts: dict[str, str]) -> Table:
    """Return names and values as a table without a header."""
    table = empty_table(("", ""), title)
    table.columns[1].justify = "left"
    table.show_header = False
    for row in facts.items():
        table.add_row(*row)
    return table


def decisions_table(decisions: Sequence[Decision]) -> Table:
    table = empty_table(("setting", "value", "reason"), "plan")
    for column in table.columns:
        column.justify = "left"
    for decision in decisions:
        value = as_yaml(decision.value)
        shown = value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]} ..."
        table.add_row(decision.key, shown, decision.reason, style="bold" if decision.given else "")
    return table


def percent(share: float) -> str:
    """Format a fraction as percent with one decimal, or one significant digit if that would print 0.0."""
    return f"{100 * share:.1f}" if share >= 0.0005 or not share else f"{100 * share:.1g}"


def format_size(size: Size) -> str:
    return "{}x{}".format(*size)


def format_seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
