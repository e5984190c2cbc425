"""The folder of a hyperparameter search, which drivers and trials share: journal, locks, leases, results of trials.

Locks are those of flock(2): they end with the last process that has the file open, however it ends.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from segframe.errors import UserError
from segframe.preemption import PARENT

if sys.platform != "win32":
    import fcntl

NAME = "study"
"""The name of the one study in a journal."""
PRUNED = 76
"""The exit code of a trial that its pruner has ended."""
TRIAL = "SEGFRAME_TRIAL"
"""The environment variable that makes a run a trial."""
LEASE = ".lease"
"""The file in a trial's folder, see Lease."""
HEARTBEAT_SECONDS = 10
LEASE_SECONDS = 120
"""Time without a heartbeat after which a trial of another machine counts as abandoned."""


@dataclass(frozen=True)
class TrialAddress:
    """A trial's place in its study, as its process gets it."""

    study: str
    number: int
    pruner: dict[str, Any]

    def to_environment(self) -> dict[str, str]:
        return {TRIAL: json.dumps(asdict(self)), PARENT: str(os.getpid())}


def trial_address() -> TrialAddress | None:
    """The study and number of the trial that this process is; None in other runs."""
    text = os.environ.get(TRIAL)
    return TrialAddress(**json.loads(text)) if text else None


def open_file(path: Path) -> int:
    """Open a file for locking; it is made where there is none."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def lock(file: int, path: Path, wait: bool) -> bool:
    """Lock an open file; False where another process has locked it and `wait` is false."""
    if sys.platform == "win32":
        raise UserError("search: Windows has no locks that end with their process; use Linux, macOS or WSL")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"study={path.parent}: its file system has no locks ({error.strerror}), which keep trials from being run "
            "twice; choose a folder on another one"
        ) from error
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; other processes wait for it here."""
    file = open_file(path)
    try:
        lock(file, path, wait=True)
        yield
    finally:
        os.close(file)


class JournalLock:
    """The lock of Optuna's journal for writing; Optuna's own outlive their process, which costs the others 30 s."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path = journal.with_name(f".{journal.name}.lock")
        self._file = -1

    def acquire(self) -> bool:
        """Wait for the lock, then remove an incomplete last line, left by a killed process or a full disk."""
        self._file = open_file(self._path)
        lock(self._file, self._path, wait=True)
        with suppress(FileNotFoundError), self._journal.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and read_at(file, size - 1, 1) != b"\n":
                start = max(0, size - 2**20)
                file.truncate(start + read_at(file, start, size - start).rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        os.close(self._file)


def read_at(file: Any, position: int, length: int) -> bytes:
    file.seek(position)
    return bytes(file.read(length))


def open_journal(folder: Path) -> Any:
    """The journal of a study, an optuna.storages.JournalStorage."""
    from optuna.storages import JournalStorage  # an optional dependency, which a run that is no trial does without
    from optuna.storages.journal import JournalFileBackend

    path = folder / "journal.log"
    # Optuna asks for a subclass of a private class, and calls acquire and release.
    return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))  # type: ignore[arg-type]


class Lease:
    """The file in a trial's folder that its driver and its process keep locked.

    It names the machine and has a heartbeat, since locks on network file systems may not reach other machines.
    """

    def __init__(self, path: Path, file: int) -> None:
        self.heartbeat, self.file = Heartbeat(path), file

    @classmethod
    def take(cls, folder: Path) -> "Lease | None":
        """The lease of the trial in a folder, which is made; None where another process works on the trial."""
        folder.mkdir(parents=True, exist_ok=True)
        path, host = folder / LEASE, socket.gethostname()
        file = open_file(path)
        if lock(file, path, wait=False):
            holder = os.pread(file, 1000, 0).decode()
            if holder in ("", host) or server_time(folder) - os.fstat(file).st_mtime > LEASE_SECONDS:
                os.ftruncate(file, 0)
                os.pwrite(file, host.encode(), 0)
                return cls(path, file)
        os.close(file)
        return None

    def release(self) -> None:
        """Let another driver continue the trial at once."""
        os.ftruncate(self.file, 0)
        os.close(self.file)


class Heartbeat:
    """A file's modification time as a sign that a process works; passing errors of network file systems are ignored."""

    def __init__(self, path: Path) -> None:
        self.path, self._last = path, 0.0

    def beat(self) -> None:
        """Update the file's modification time, at most every HEARTBEAT_SECONDS."""
        if monotonic() - self._last > HEARTBEAT_SECONDS:
            with suppress(OSError):
                os.utime(self.path)
            self._last = monotonic()


def server_time(folder: Path) -> float:
    """The time by the clock of the machine that keeps the files, in seconds."""
    probe = folder / ".clock"
    probe.touch()
    os.utime(probe)
    return probe.stat().st_mtime


@dataclass(frozen=True)
class TrialResult:
    """The content of a trial's result.json."""

    best: float | None
    pruned: int | None
    """The validation, from 1, after which the pruner ended it; None for a complete run."""


def read_result(folder: Path) -> TrialResult | None:
    """The result of a run; None where it has not ended."""
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return TrialResult(content["best"], content.get("pruned"))
