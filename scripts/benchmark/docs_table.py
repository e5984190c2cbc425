"""Write the results of a full run on a CPU into docs/speed.md: python scripts/benchmark/docs_table.py"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "scripts/benchmark/results_cpu.json"
PAGE = ROOT / "docs/speed.md"
HEADER = "| row | compared with | time | peak memory | target | met |\n|---|---|---|---|---|---|\n"


def table() -> str:
    """Return a Markdown table of the measured rows, followed by the number of rows that meet their targets."""
    rows = [row for row in json.loads(RESULTS.read_text())["rows"] if row["ms"] is not None]
    lines = []
    for row in rows:
        memory = "" if row["memory_ratio"] is None else f"{row['memory_ratio']:.3f}"
        met = "yes" if row["met"] else "**no**"
        cells = (f"`{row['name']}`", row["against"], time_of(row), memory, row["target"], met)
        lines.append(f"| {' | '.join(cells)} |\n")
    count = sum(bool(row["met"]) for row in rows)
    return HEADER + "".join(lines) + f"\n{count} of {len(rows)} rows meet their targets.\n"


def time_of(row: dict[str, Any]) -> str:
    """Return the ratio segframe / other; for a row whose target is given in seconds, both times."""
    if "x time" in row["target"]:
        return f"{row['time_ratio']:.3f}"
    ours, theirs = (f"{ms / 1e3:.3g} s" if ms >= 500 else f"{ms:.3g} ms" for ms in (row["ms"], row["ms_against"]))
    return f"{ours} (theirs {theirs})"


def with_table(page: str) -> str:
    """Return the page's text with its table replaced."""
    pattern = re.escape(HEADER) + r"(?:\|.*\n)*(?:\n\d+ of \d+ rows meet their targets\.\n)?"
    text, count = re.subn(pattern, lambda _: table(), page)
    assert count == 1, "docs/speed.md has no table of results"
    return text


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
