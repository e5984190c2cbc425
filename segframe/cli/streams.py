"""Standard output and standard error, whose end does not end a program."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class SafeStream:
    """A stream that leaves out what it cannot write: its reader has gone (`| head`, a `tee` that Ctrl-C ended), its
    disk is full, or its encoding lacks a sign. A run goes on then, as its figures are in its folder.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, if it can be."""
        with self._going_on():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered, if it can be."""
        with self._going_on():
            self._stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is buffered, and all that comes, goes nowhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if self is sys.stdout and not isinstance(error, BrokenPipeError):
                print(f"standard output cannot be written any more: {error.strerror}", file=sys.stderr)


def make_lasting() -> None:
    """Has this program go on without a reader of its output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # not a test's
            setattr(sys, name, SafeStream(stream))


def write_error(message: bytes) -> None:
    """Writes to standard error from a signal's handler, where a print may be what was interrupted."""
    with suppress(OSError):
        os.write(2, message)
