"""What a campaign finds: per part, what passed, failed or was left out, and how long it took."""

import time
from dataclasses import dataclass, field


@dataclass
class Settings:
    """What a campaign was asked for."""

    quick: bool = False
    seed: int = 0
    pick: int | None = None
    """The number of the only case to be run of each part, to reproduce it."""

    def command(self, part: str, number: int) -> str:
        """The command that runs one case again."""
        quick = " quick" if self.quick else ""
        return f".venv/bin/python tests/torture{quick} only={part} seed={self.seed} pick={number}"


@dataclass
class Part:
    """A part of the campaign; `settings` tell how to reproduce its cases."""

    name: str
    settings: Settings
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def note(self, number: int, title: str, complaints: list[str], command: str | None = None) -> None:
        """Counts a case; tells of one that failed, with all that is needed to see it again."""
        self.seconds = time.monotonic() - self.started
        if not complaints:
            self.passed += 1
            return
        self.failed += 1
        self.say(f"FAILED {number}: {title}")
        for complaint in complaints:
            print("    " + complaint.strip().replace("\n", "\n    "))
        print(f"    again: {self.settings.command(self.name, number)}")
        if command:
            print(f"    which runs: {command}", flush=True)

    def skip(self, reason: str) -> None:
        """Counts what cannot be done here."""
        self.skipped.append(reason)
        self.say(f"skipped: {reason}")

    def say(self, line: str) -> None:
        """Prints a line of progress."""
        print(f"{self.name} {time.monotonic() - self.started:5.0f} s  {line}", flush=True)


def table(parts: list[Part]) -> str:
    """One line a part."""
    lines = [f"{'part':8} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}"]
    for part in parts:
        reasons = f"  {'; '.join(dict.fromkeys(part.skipped))}" if part.skipped else ""
        counts = f"{part.passed:7} {part.failed:7} {len(part.skipped):8} {part.seconds:8.0f}"
        lines.append(f"{part.name:8} {counts}{reasons}")
    return "\n".join(lines)
