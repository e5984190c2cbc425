"""The process group of torch.distributed in jobs that torchrun, Slurm or segframe's launcher start."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def is_distributed() -> bool:
    """Whether this process is one of several that torchrun, Slurm or `launch` has started."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def use_slurm_variables() -> None:
    """Set torchrun's environment variables (RANK, WORLD_SIZE, ...) from Slurm's, if srun has started several tasks."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1 or "RANK" in os.environ:
        return
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
    numbers = {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks // int(os.environ.get("SLURM_STEP_NUM_NODES", 1))),
    }
    os.environ.setdefault("MASTER_ADDR", first_node(os.environ["SLURM_STEP_NODELIST"]))
    os.environ.setdefault("MASTER_PORT", str(15000 + (101 * job + step) % 17000))  # steps of one job run side by side
    os.environ.update(numbers)


def first_node(names: str) -> str:
    """The first of the machines in a list of Slurm: gpu[07-09,12],login is gpu07."""
    return re.sub(r"\[(\w+)[^]]*]", r"\1", names).split(",")[0]


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group; if the job fails, one process prints the error."""
    from segframe import distributed

    try:
        distributed.join()
    except Exception as error:
        if not distributed.is_lost_connection(error):
            raise
        if not distributed.is_first_to_fail(error):  # the process that has failed reports why
            sys.exit(1)
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        sys.exit(
            f"error: process {os.environ['RANK']} has not met the others at {place}: {str(error).splitlines()[0]}; the "
            "environment variable MASTER_PORT chooses another port"
        )
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            raise
        if not distributed.is_first_to_fail(error.__context__ or error):
            sys.exit(1)
        raise
    distributed.leave()


def is_lost_connection(error: Exception) -> bool:
    from segframe import distributed

    return distributed.is_lost_connection(error)


def send_config(config: DictConfig) -> None:
    from segframe.distributed import on_rank_zero

    on_rank_zero(lambda: (config, hydra_config()))


def hydra_config() -> DictConfig:
    """Hydra's own config, without types: pickle does not find those of launchers, whose modules Hydra imports twice."""
    content: Any = OmegaConf.to_container(HydraConfig.instance().cfg)
    return DictConfig(content)


def receive_config() -> DictConfig:
    from segframe.distributed import on_rank_zero

    received: tuple[DictConfig, Any] = on_rank_zero(tuple)
    config, HydraConfig.instance().cfg = received
    return config
