"""Calls in forked processes, each with its own allocator and threads, like a loader's workers."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from benchmark.measure import Call
from benchmark.row import NotMeasurable


class Forked:
    """A call in a forked process: `make` is run there once, its result on every call, which waits for it.

    Raises what `make` or its result raise, and NotMeasurable on systems without fork.
    """

    def __init__(self, make: Callable[[], Call]) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise NotMeasurable("processes cannot be forked on this system")
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=_serve, args=(make, theirs), daemon=True)
        self.process.start()
        self._answer()

    def __call__(self) -> None:
        self.pipe.send(True)
        self._answer()

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()

    def _answer(self) -> None:
        if (error := self.pipe.recv()) is not None:
            raise error


def _serve(make: Callable[[], Call], pipe: Connection) -> None:
    try:
        call = make()
        while True:
            pipe.send(None)
            pipe.recv()
            call()
    except Exception as error:
        pipe.send(error)
