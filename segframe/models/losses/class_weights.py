"""Class weights of losses that are weighted means over pixels."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe.errors import UserError, check_range


def weights_tensor(class_weights: list[float] | Literal["auto"] | None) -> Tensor | None:
    """Return the setting `class_weights` as float32 (C,), None for equal weights; UserError for impossible ones."""
    assert class_weights != "auto", "auto is resolved when the config is finished"
    for weight in class_weights or ():
        check_range("loss.class_weights", weight, 0)
    if class_weights is not None and not any(class_weights):
        raise UserError("loss.class_weights are all 0: nothing would be learned; give at least one above 0")
    return None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)


def check_number(class_weights: Tensor | None, classes: int) -> None:
    """UserError where there are not as many weights as classes."""
    if class_weights is not None and len(class_weights) != classes:
        raise UserError(f"loss.class_weights has {len(class_weights)} entries for {classes} classes")


def summed_weights(masks: Sequence[Tensor], class_weights: Tensor | None, classes: int, dtype: torch.dtype) -> Tensor:
    """Return the sum of the weights of the pixels of all masks that are not void, a scalar."""
    weights = torch.ones(classes, device=masks[0].device) if class_weights is None else class_weights
    of_label = F.pad(weights.to(dtype), (0, 256 - classes))
    return torch.stack([of_label[each.int()].sum() for each in masks]).sum()
