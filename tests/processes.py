"""Several processes of this one, connected as torchrun's are."""

import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.global_hydra import GlobalHydra

from segframe import distributed

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    code: int
    out: str


def fork(count: int, function: Callable[..., Any], *arguments: Any) -> list[Ended]:
    """Call a function in so many processes, ranks 0 ... count - 1."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    outputs = [Path(f"out_{rank}.txt").absolute() for rank in range(count)]
    processes = [
        context.Process(target=_child, args=(rank, count, port, outputs[rank], function, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
    return [Ended(process.exitcode or 0, file.read_text()) for process, file in zip(processes, outputs, strict=True)]


def _child(rank: int, count: int, port: int, output: Path, function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115
    torch.set_num_threads(1)  # the threads of the process that forked are not here
    code = 0
    try:
        function(*arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def connected(function: Callable[..., Any], *arguments: Any) -> None:
    """For `fork`: call a function of connected processes."""
    distributed.join()
    function(*arguments)
    distributed.leave()


def program(script: str, *words: str) -> None:
    """For `fork`: run train.py or a script."""
    GlobalHydra.instance().clear()
    sys.argv = [str(ROOT / script), *words]
    runpy.run_path(str(ROOT / script), run_name="__main__")
