"""Several processes for one job, started by torch's launcher."""

import logging
import os
import pickle
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, NoReturn

from omegaconf import DictConfig

from segframe import preemption
from segframe.cli.process_group import hydra_config, is_distributed
from segframe.config.machine import num_cores
from segframe.errors import UserError

JOB = "SEGFRAME_JOB"
"""The environment variable that names the file with a worker's Job."""
WORKER = "import signal; signal.signal(2, signal.SIG_DFL); from segframe.cli.worker import main; main()"
"""The Python code of a worker process. Ctrl-C while it imports torch ends it without a traceback."""


class Job(NamedTuple):
    """A function, by its dotted name, and the composed config that every process calls it with."""

    function: str
    memory_advice: str
    config: DictConfig
    hydra: Any  # HydraConfig's content


class WorkerError(Exception):
    """An error in one of the processes; its cause is that process's traceback."""


def count_devices(config: DictConfig) -> int:
    """The processes that a program's settings ask for on this machine; 1 in a process of a distributed job."""
    if is_distributed():
        return 1
    settings = config.get("trainer") or config
    devices = settings.get("devices", 1)
    if settings.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={settings.num_nodes}: this process can start others on its own machine only; start "
            "them by torchrun or srun (docs/devices.md), or set trainer.num_nodes=1"
        )
    if type(devices) is int and devices == 1:
        return 1
    name = "trainer.devices" if "trainer" in config else "devices"
    import torch

    gpus = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if devices == "auto":
        return max(1, gpus)
    if type(devices) is not int or devices < 1:
        raise UserError(f"{name}={devices}: it must be a number of devices, or auto (all GPUs)")
    if gpus and devices > gpus:
        raise UserError(f"{name}={devices}: this machine has {gpus} GPUs; set {name}={gpus}, or auto")
    return devices


def launch(function: str, memory_advice: str, config: DictConfig, devices: int) -> Any:
    """Run a function of the config in so many processes on this machine; returns the result of rank 0.

    Processes that crash or are killed are started again, trainer.max_restarts times, to resume the run from its last
    checkpoint. A UserError is not retried, which torch's own max_restarts would do. UserError and
    SystemExit are raised as if in this process.
    """
    max_restarts = config.trainer.max_restarts if "trainer" in config else 0
    for left in range(max(0, max_restarts), -1, -1):
        try:
            return start_processes(Job(function, memory_advice, config, hydra_config()), devices)
        except (WorkerError, ProcessKilled) as error:
            if not left:
                raise
            config.resume = config.resume or "auto"
            print(f"{error}; starting again from the last checkpoint ({left - 1} more times)", flush=True)
    raise AssertionError


class ProcessKilled(UserError):
    """One of the processes has ended without an error of its own."""


def start_processes(job: Job, devices: int) -> Any:
    """Start torch's elastic agent with so many workers and wait for their end."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Since torch 2.9 the agent can leave signals to on_signal.
    settable = {field.name for field in fields(LaunchConfig)}
    signals: dict[str, Any] = {"signals_to_handle": "SIGHUP,SIGQUIT"} if "signals_to_handle" in settable else {}
    ending: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        if not ending:
            ending.append(number)
            raise SignalException(f"signal {number}", sigval=signal.Signals(number))
        if number == signal.SIGINT:  # Ctrl-C again, while workers end
            kill_workers(Path(folder))
            preemption.end(number)

    torchs = logging.getLogger("torch.distributed.elastic")  # its children have levels of their own
    torchs.handlers, torchs.propagate = [logging.NullHandler()], False  # what it reports is reported here
    with TemporaryDirectory(prefix="segframe_") as folder, restored_handlers(), environment(devices):
        file = Path(folder) / "job"
        file.write_bytes(pickle.dumps(job))
        os.environ[JOB] = str(file)
        agent = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            **signals,
        )
        for number in preemption.SIGNALS:
            signal.signal(number, on_signal)
        try:
            elastic_launch(agent, sys.executable)("-P", "-c", WORKER)
        except SignalException as error:
            report_signal(error.sigval, file)
            preemption.end(error.sigval)
        except ChildFailedError as error:
            raise_failure(error.failures)
        return pickle.loads(Path(f"{file}.result").read_bytes())


def report_signal(number: int, file: Path) -> None:
    """Print what has become of a job that a signal has ended, if rank 0 has not."""
    if Path(f"{file}.result").exists():
        print(f"{preemption.signal_name(number)}: the job was complete", flush=True)
    elif not Path(f"{file}.begun").exists():
        print(f"{preemption.signal_name(number)}: ended before the start; the same command starts again", flush=True)


def kill_workers(folder: Path) -> None:
    for path in folder.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(path.stem), signal.SIGKILL)


@contextmanager
def restored_handlers() -> Iterator[None]:
    others = (getattr(signal, name, signal.SIGTERM) for name in ("SIGHUP", "SIGQUIT"))  # Windows has neither
    handlers = {number: signal.getsignal(number) for number in (*preemption.SIGNALS, *others)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def environment(devices: int) -> Iterator[None]:
    """Set environment variables for worker processes (threads, parent process, PYTHONPATH); restore them on exit."""
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // devices)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no stack traces of lost connections
    os.environ[preemption.PARENT] = str(os.getpid())
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def raise_failure(failures: dict[int, Any]) -> NoReturn:
    """Raise the error that ended a job, in whichever of its processes."""
    reports = [failure.error_file_data for failure in failures.values() if failure.error_file_data]
    reports = [report for report in reports if report.get("message")]
    known = [report["message"] for report in reports if isinstance(report["message"], dict)]
    for message in sorted(known, key=lambda message: message["extraInfo"]["timestamp"]):
        kind, cause = message["extraInfo"]["kind"], RemoteTraceback(message["extraInfo"]["py_callstack"])
        if kind != "lost connection":
            raise (UserError if kind == "mistake" else WorkerError)(message["message"]) from cause
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    for rank, code in codes.items():
        if code < 0:
            name = signal.Signals(-code).name
            raise ProcessKilled(f"process {rank} was ended by {name}; if memory ran out, lower data.num_workers")
    code = max(codes.values())
    if code > 1:
        sys.exit(code)
    raise ProcessKilled("the processes lost their connection")


class RemoteTraceback(Exception):
    """The traceback of another process."""
