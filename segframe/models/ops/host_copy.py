"""Asynchronous copies from a GPU to the CPU."""

import torch
from torch import Tensor


class HostCopy:
    """Asynchronous copy of a GPU tensor to the CPU; a tensor on the CPU is not copied."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._done = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def is_ready(self) -> bool:
        return self._done is None or self._done.query()

    def wait(self) -> Tensor:
        """Wait until the copy is complete, and return it."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy
