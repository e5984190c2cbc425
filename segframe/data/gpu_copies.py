"""Copies of batches to a GPU while it computes."""

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.utils._pytree import tree_leaves

COPIED = "copied"
"""Key of a batch's event, which the GPU reaches when the batch has arrived."""


def copied_ahead(batches: Iterator[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield batches that are being copied to a GPU on a stream of their own; each goes to `wait_for_copy` before use.

    Lightning asks for a batch before the step on the last one: so copies and steps overlap.
    """
    stream = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = move_data_to_device(batch, device)
        moved[COPIED] = stream.record_event()
        yield moved


def wait_for_copy(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Make the GPU's current stream wait until a batch of `copied_ahead` has been copied; return the batch."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(batch.pop(COPIED))
    for tensor in tree_leaves(batch):
        if isinstance(tensor, torch.Tensor):
            tensor.record_stream(stream)  # else its memory could be reused for another copy while this stream reads it
    return batch
