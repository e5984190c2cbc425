"""Copies of a device's tensors on the CPU, without waiting for the device."""

import torch
from torch import Tensor


class HostCopy:
    """Asynchronous copy of a tensor to the CPU."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._done = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def is_ready(self) -> bool:
        return self._done is None or self._done.query()

    def wait(self) -> Tensor:
        """Return the copy when it is there."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy
