"""The processes of a job on several devices: which one this is, and what they tell each other."""

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

JOINING = timedelta(minutes=10)
"""Time limit for all processes to start."""
LONGEST_WAIT = timedelta(hours=2)
"""Timeout of collective operations: the other ranks wait in one while rank 0 prepares data."""
PATIENCE = 2.0
"""Seconds in which a process that has failed tells the others so."""

_stores: list[dist.Store] = []
"""The store by which the processes of this job have connected, if they have."""


def join() -> None:
    """Connect with the other processes, by torchrun's environment variables; only rank 0 prints from here on."""
    store, rank, world = next(dist.rendezvous("env://", timeout=JOINING))
    store.set_timeout(LONGEST_WAIT)
    _stores.append(store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=LONGEST_WAIT)
    if torch.cuda.is_available():
        torch.cuda.set_device(device_index())
    if rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


def leave() -> None:
    dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_world() -> int:
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_initialized() else 1


def local_rank() -> int:
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


def device_index() -> int:
    """The GPU of this process among those that it sees, which may be its own alone."""
    return local_rank() % torch.cuda.device_count()


def uses_gpu(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()


def on_rank_zero(function: Callable[..., T], *args: Any) -> T:
    """Call a function on rank 0 alone; returns its result on every rank."""
    results: list[Any] = [function(*args) if rank() == 0 else None]
    if world() > 1:
        dist.broadcast_object_list(results, src=0)
    result: T = results[0]
    return result


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Let the first process of each machine run the block before the others do, which find its files then."""
    if local_rank() > 0:
        wait_for_all()
    yield
    if local_rank() == 0:
        wait_for_all()


def wait_for_all() -> None:
    """Return when every process has called this; GPUs are not waited for."""
    largest(0)


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order."""
    values: list[Any] = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def stacked(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, of one shape, in their order: (world(), *shape). It has no gradient."""
    found = tensor.new_empty((world(), *tensor.shape))
    if world() == 1:
        return found.copy_(tensor[None])
    dist.all_gather_into_tensor(found.flatten(0, 1), tensor.contiguous())
    return found


def largest(*numbers: int) -> list[int]:
    """The largest of each number over all ranks; GPUs are not waited for."""
    if world() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    found: list[int] = tensor.tolist()
    return found


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks. It can be differentiated: its gradient is the sum of all ranks' gradients."""
    if world() == 1 or tensor.is_meta:
        return tensor
    result: Tensor = _Total.apply(tensor)
    return result


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_reduced(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _all_reduced(gradient)


def _all_reduced(tensor: Tensor) -> Tensor:
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result)
    return result


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another process has gone."""
    text = str(error)
    return isinstance(error, dist.DistError) or bool(re.search(r"gloo.*(onnection|peer|Broken pipe)", text, re.DOTALL))


def is_first_to_fail(error: BaseException) -> bool:
    """Whether this process is the one that reports why the job fails."""
    if not _stores:  # the processes have not met
        return True
    if is_lost_connection(error):
        time.sleep(PATIENCE)  # the rank with the original error reports first
    try:
        return bool(_stores[-1].compare_set("failed", "", str(rank())) == str(rank()).encode())
    except dist.DistError:  # rank 0 kept the store, and has gone
        return False
