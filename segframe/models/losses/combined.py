"""Weighted sum of losses."""

from collections.abc import Sequence

from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss


class WeightedSum(Loss):
    """Sum of `terms`, each multiplied by its entry in `weights`."""

    def __init__(self, terms: dict[str, Loss], weights: dict[str, float]) -> None:
        super().__init__()
        if terms.keys() != weights.keys():
            raise UserError(f"loss.weights names {', '.join(weights)}; the loss has the terms {', '.join(terms)}")
        self.terms = nn.ModuleDict(terms)
        self.weights = weights

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        masks = (mask, step_masks) if step_masks else (mask,)
        parts = [self.weights[name] * term(logits, *masks) for name, term in self.terms.items()]
        return sum(parts[1:], parts[0])
