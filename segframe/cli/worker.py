"""One of the processes that launch starts."""

import importlib
import json
import os
import pickle
import sys
import time
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log

from segframe import distributed, preemption
from segframe.cli.launch import JOB, Job
from segframe.config import resolvers  # noqa: F401  # registered for Hydra's own config
from segframe.errors import UserError, translate_errors


def main() -> None:
    """Run the job in the file that JOB names; its result or its error go into files beside it."""
    preemption.end_with_parent()
    file = Path(os.environ[JOB])
    file.with_name(f"{os.getpid()}.pid").touch()
    job: Job = pickle.loads(file.read_bytes())
    HydraConfig.instance().cfg = job.hydra
    if "trainer" in job.config:
        preemption.listen()
    if os.environ["RANK"] == "0":
        Path(f"{file}.begun").touch()
    try:
        distributed.join()
        if distributed.rank() == 0:
            configure_log(job.hydra.hydra.job_logging, False)
        with translate_errors(job.memory_advice):
            module, _, name = job.function.rpartition(".")
            result = getattr(importlib.import_module(module), name)(job.config)
    except Exception as error:
        write_error(error)
        sys.exit(1)
    if distributed.rank() == 0:
        Path(f"{file}.unfinished").write_bytes(pickle.dumps(result))
        os.replace(f"{file}.unfinished", f"{file}.result")
    distributed.leave()


def write_error(error: Exception) -> None:
    """Write an error into the file that torch's launcher reads."""
    kind = "lost connection" if distributed.is_lost_connection(error) else "bug"
    if isinstance(error, UserError | OSError):
        kind = "mistake"
    text = str(error) if kind == "mistake" else f"{type(error).__name__}: {error}"
    extra = {"kind": kind, "timestamp": str(int(time.time())), "py_callstack": traceback.format_exc()}
    content = {"message": {"message": text, "extraInfo": extra}}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(content))
