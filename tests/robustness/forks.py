"""Programs in forked children of one process that has imported everything, which saves seconds per program."""

import atexit
import gc
import importlib
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 240
"""Seconds after which a program counts as hanging."""


def import_programs() -> None:
    """Import what the programs import, with one thread: a process with more cannot be forked safely."""
    sys.path.insert(0, str(ROOT))
    import cv2
    import torch
    from hydra import compose, initialize_config_dir

    from segframe.cli.main import PROGRAMS
    from segframe.config import schema

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    functions = [program.function for program in PROGRAMS.values()]
    for name in ("tensorboard.backend.event_processing.event_accumulator", "torch.utils.tensorboard"):
        importlib.import_module(name)
    for function in functions:
        importlib.import_module(function.rpartition(".")[0])
    # Hydra's grammar caches what it parses.
    schema.register()
    with initialize_config_dir(str(schema.CONFIG_DIR), version_base="1.3"):
        compose("train", ["data.dataset.num_images={train: 12, val: [3]}", "head=fcn", "callbacks=none"])
    gc.collect()
    gc.freeze()  # so that the children share these pages


class Child:
    """A program in a forked process; `words` are a script below ROOT and its arguments.

    `before` is called in the child first. `log` is the file of its output.
    """

    def __init__(
        self, words: Sequence[object], folder: Path, log: Path, before: Callable[[], object] | None = None
    ) -> None:
        assert threading.active_count() == 1, "only a process of one thread can be forked safely"
        self.words = [str(word) for word in words]
        self.log = log
        self.code: int | None = None
        self.started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(folder, before)

    @property
    def out(self) -> str:
        """Both output streams so far."""
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """The exit code as subprocess returns it, None while the program runs; a hanging one is killed."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - self.started > TIMEOUT:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.code = 124
        return self.code

    def wait(self) -> int:
        """Wait for the exit code."""
        while (code := self.poll()) is None:
            time.sleep(0.005)
        return code

    def send(self, number: int) -> None:
        """Send SIGKILL to the program alone, any other signal to its workers too, as schedulers do."""
        if self.code is None:
            (os.kill if number == signal.SIGKILL else os.killpg)(self.pid, number)

    def _run(self, folder: Path, before: Callable[[], object] | None) -> None:
        code = 1
        try:
            os.setsid()
            os.chdir(folder)
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if before is not None:
                before()
            sys.argv = [str(ROOT / self.words[0]), *self.words[1:]]
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                code = 0
            except SystemExit as end:  # as the interpreter does
                code = (end.code or 0) if isinstance(end.code, int | None) else 1
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            threading._shutdown()  # type: ignore[attr-defined]  # as an interpreter does at its end
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:  # the child never returns to the tests
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
