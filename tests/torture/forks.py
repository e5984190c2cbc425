"""Programs run in forked children of one process that has imported everything: seconds less each, and the same code."""

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
PATIENCE = 240
"""Seconds after which a program counts as hanging."""


IMPORTED = (
    *("scipy.io", "torch.utils.tensorboard", "tensorboard.backend.event_processing.event_accumulator"),
    *(
        "benchmark.report",
        "segframe.build",
        "segframe.models.weights.third_party",
        "segframe.inference.evaluate",
    ),
    *(
        "segframe.inference.predict",
        "segframe.training.loggers",
        "segframe.analysis.receptive_field",
        "segframe.models.from_checkpoint",
    ),
    *(
        "segframe.training.run_dir",
        "segframe.cli.checkpoint_data",
        "segframe.analysis.summary_figure",
        "segframe.cli.sweep",
        "segframe.training.performance",
    ),
)


def warm() -> None:
    """Imports what the programs import, with one thread: a process with more cannot be forked safely."""
    sys.path.insert(0, str(ROOT))
    import cv2
    import torch
    from hydra import compose, initialize_config_dir

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for name in IMPORTED:
        importlib.import_module(name)
    # Hydra's grammar learns while it parses: once is enough for all children.
    sys.modules["segframe.config"].register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train", ["data.dataset.num_images={train: 12, val: [3]}", "head=fcn", "callbacks=none"])
    gc.collect()
    gc.freeze()  # the children share these pages


class Child:
    """A program that runs in a forked process: `words` are the script below ROOT and its arguments.

    `before` is called in the child first. What the program prints goes to `log`.
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
            self._be(folder, before)

    @property
    def out(self) -> str:
        """Both streams so far."""
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """The exit code as subprocess tells it, None while the program runs; kills one that hangs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - self.started > PATIENCE:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.code = 124
        return self.code

    def wait(self) -> int:
        """The exit code, once there is one."""
        while (code := self.poll()) is None:
            time.sleep(0.005)
        return code

    def send(self, number: int) -> None:
        """Kills the program alone, whose workers must see it; asks it to end as schedulers do, its workers too."""
        if self.code is None:
            (os.kill if number == signal.SIGKILL else os.killpg)(self.pid, number)

    def _be(self, folder: Path, before: Callable[[], object] | None) -> None:
        # Never back into the campaign: whatever happens, this process ends here.
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
            code = run(sys.argv[0])
            threading._shutdown()  # type: ignore[attr-defined]  # as an interpreter does at its end
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def run(script: str) -> int:
    """The exit code of a script, as the interpreter would find it."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
