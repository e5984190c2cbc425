"""Parameter groups of the optimizer: part x kind, each with its learning rate and weight decay."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from segframe.config.run_schema import ParamGroupsConfig
from segframe.errors import UserError, check_range
from segframe.models.segmenter import Segmenter


def group_parameters(
    segmenter: Segmenter, make_optimizer: Callable[..., Optimizer], settings: ParamGroupsConfig
) -> list[dict[str, Any]]:
    """The trained parameters by part (backbone, head, aux_head) and kind (weight, bias ...), each with lr and decay."""
    recipe = make_optimizer.keywords  # type: ignore[attr-defined]  # of the partial that the config makes
    if "lr" not in recipe:
        raise UserError("optimizer.lr must be given: optimizer.lr=...")
    decays = {
        "weight": True,
        "depthwise": settings.decay_depthwise,
        "bias": settings.decay_bias,
        "norm": settings.decay_norm,
        "norm_bias": settings.decay_norm and settings.decay_bias,
    }
    groups = []
    for part in ("backbone", "head", "aux_head"):
        module = getattr(segmenter, part)
        if module is None:
            continue
        check_range(f"{part}.lr_multiplier", module.lr_multiplier, 0)
        kinds: dict[str, list[nn.Parameter]] = {kind: [] for kind in decays}
        for layer in module.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                if parameter.requires_grad:
                    kinds[kind_of(layer, name, settings)].append(parameter)
        for kind, parameters in kinds.items():
            lr = recipe["lr"] * module.lr_multiplier * (settings.bias_lr_multiplier if kind == "bias" else 1.0)
            decay = recipe.get("weight_decay", 0.0) if decays[kind] else 0.0
            if parameters:
                groups.append({"params": parameters, "lr": lr, "weight_decay": decay, "name": f"{part}/{kind}"})
    return groups


def kind_of(layer: nn.Module, name: str, settings: ParamGroupsConfig) -> str:
    """The kind of a layer's parameter; depthwise and norm_bias are kinds only where the settings distinguish them."""
    if isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
        return "norm_bias" if name == "bias" and settings.decay_norm and not settings.decay_bias else "norm"
    if name == "bias":
        return "bias"
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    return "depthwise" if depthwise and not settings.decay_depthwise else "weight"
