"""Results of the robustness tests: cases that passed, failed or were skipped, and how to repeat them."""

import random
import time
from dataclasses import dataclass, field


@dataclass
class Settings:
    """Arguments of the command line."""

    quick: bool = False
    seed: int = field(default_factory=lambda: random.randrange(100_000))
    pick: int | None = None
    """Number of the only case to run in each part."""


@dataclass
class Part:
    """The results of one part; `skipped` is why it cannot run here."""

    name: str
    settings: Settings
    passed: int = 0
    failed: int = 0
    skipped: str = ""
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, number: int, title: str, problems: list[str], command: str | None = None) -> None:
        """Count a case; print its problems, if any, and the command that repeats it."""
        self.seconds = time.monotonic() - self.started
        if not problems:
            self.passed += 1
            return
        self.failed += 1
        self.log(f"FAILED {number}: {title}")
        for problem in problems:
            print("    " + problem.strip().replace("\n", "\n    "))
        quick = " quick" if self.settings.quick else ""
        again = f"tests/robustness{quick} only={self.name} seed={self.settings.seed} pick={number}"
        print(f"    repeat with: .venv/bin/python {again}")
        if command:
            print(f"    which runs: {command}", flush=True)

    def log(self, line: str) -> None:
        """Print a line of progress."""
        print(f"{self.name} {time.monotonic() - self.started:5.0f} s  {line}", flush=True)


def table(parts: list[Part]) -> str:
    """One line per part."""
    lines = [f"{'part':8} {'passed':>7} {'failed':>7} {'seconds':>8}"]
    for part in parts:
        note = f"  skipped: {part.skipped}" if part.skipped else ""
        lines.append(f"{part.name:8} {part.passed:7} {part.failed:7} {part.seconds:8.0f}{note}")
    return "\n".join(lines)
