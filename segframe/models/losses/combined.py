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
        words = [f"+loss.weights.{name}=1.0" for name in terms if name not in weights]
        words += [f"~loss.weights.{name}" for name in weights if name not in terms]
        if words:
            named = f"loss.weights names {', '.join(weights)}, the terms are {', '.join(terms)}"
            raise UserError(f"{named}; add {' '.join(words)}")
        self.terms = nn.ModuleDict(terms)
        self.weights = weights

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        masks = (mask, step_masks) if step_masks else (mask,)
        parts = [self.weights[name] * term(logits, *masks) for name, term in self.terms.items()]
        return sum(parts[1:], parts[0])
