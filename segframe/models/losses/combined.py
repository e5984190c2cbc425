"""Weighted sums of losses."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from segframe.errors import UserError, check_range
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss


class WeightedSum(Loss):
    """Sum of `terms`, each multiplied by its entry in `weights`; those of weight 0 are not computed."""

    def __init__(self, terms: dict[str, Loss], weights: dict[str, float]) -> None:
        super().__init__()
        words = [f"+loss.weights.{name}=1.0" for name in terms if name not in weights]
        words += [f"~loss.weights.{name}" for name in weights if name not in terms]
        if words:
            named = f"loss.weights names {', '.join(weights)}, the terms are {', '.join(terms)}"
            raise UserError(f"{named}; add {' '.join(words)}")
        for name, weight in weights.items():
            check_range(f"loss.weights.{name}", weight, 0)
        if not any(weights.values()):
            raise UserError("loss.weights are all 0: nothing would be learned; give at least one above 0")
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if weights[name]})
        self.weights = weights

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        masks = (mask, step_masks) if step_masks else (mask,)
        parts = [self.weights[name] * term(logits, *masks) for name, term in self.terms.items()]
        return sum(parts[1:], parts[0])


def total_loss(loss: Loss, weights: Mapping[str, float], outputs: Mapping[str, Logits], *masks: Any) -> Tensor:
    """Return the sum of the losses of a network's outputs, each times its entry in `weights`; `masks`: see Loss.

    UserError where a loss is not a scalar tensor that requires a gradient.
    """
    terms = [weights[name] * scalar(loss, logits, *masks) for name, logits in outputs.items()]
    return reduce(torch.add, terms)  # torch.stack(terms).sum() would cost six operations where there is one term


def scalar(loss: Loss, *arguments: Any) -> Tensor:
    """Return loss(*arguments); UserError if it is not a scalar tensor that requires a gradient."""
    value = loss(*arguments)
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        kind = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            kind = f"a tensor of shape {tuple(value.shape)}" if value.ndim else "a scalar without a gradient"
        raise UserError(
            f"loss={type(loss).__name__}: forward returns {kind}; return a scalar tensor computed from the logits"
        )
    return value
