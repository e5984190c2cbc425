"""Networks rebuilt from checkpoints, only from parts that segframe exports under the stored public names."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

import segframe.models.backbones
import segframe.models.heads
import segframe.models.losses
from segframe.errors import UserError
from segframe.models.backbones.base import Backbone
from segframe.models.heads.base import Head
from segframe.models.losses.base import Loss
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights import checkpoint


class Restored(NamedTuple):
    """A trained network in evaluation mode, with its checkpoint's metadata and file."""

    segmenter: Segmenter
    metadata: checkpoint.CheckpointMetadata
    path: Path


def restore(path: str | Path, output_stride: int | None = None, *, diverged: bool = False) -> Restored:
    """Return the network of a checkpoint or a run's folder, built from that file alone.

    `output_stride`: another one for the backbone than the network was trained with, e.g. 8 instead of 16 for denser
    logits. `diverged`: accept weights that are NaN or infinite. UserError where the network cannot be built.
    """
    path = checkpoint.find_checkpoint(path)
    metadata, state = checkpoint.load_run(path)
    config = metadata.config
    try:
        node, normalize = config["backbone"], config["normalize"]
        settings = arguments(node) | ({"weights": None} if "weights" in node else {})
        if output_stride is not None:
            if "output_stride" not in settings:
                raise UserError(f"output_stride={output_stride}: {node['_target_']} has a fixed output stride")
            settings["output_stride"] = output_stride
        backbone = find_class(node, segframe.models.backbones, Backbone)(**settings)

        def restore_head(name: str) -> Head:
            make_head = find_class(config[name], segframe.models.heads, Head)
            return make_head(features=backbone.features, num_classes=len(metadata.classes), **arguments(config[name]))

        aux_head = restore_head("aux_head") if config.get("aux_head") else None
        scales = config.get("input_scales", [])
        segmenter = Segmenter(backbone, restore_head("head"), aux_head, Normalize(**normalize), scales)
        if output_stride is not None:
            _check_shapes(segmenter, state, output_stride)
        segmenter.load_state_dict(state)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: the network it describes cannot be built ({reason})") from error
    for name, tensor in segmenter.state_dict().items():
        if not diverged and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite; choose an earlier checkpoint")
    return Restored(segmenter.eval(), metadata, path)


def _check_shapes(segmenter: Segmenter, state: dict[str, Tensor], output_stride: int) -> None:
    """Raise UserError if weights have a shape of their own for each output stride (FCN's transposed convolutions)."""
    for name, tensor in segmenter.state_dict().items():
        if name in state and state[name].shape != tensor.shape:
            raise UserError(
                f"output_stride={output_stride}: the trained {name} {tuple(state[name].shape)} belongs to one output "
                f"stride; at this one it would be {tuple(tensor.shape)}"
            )


def restore_loss(node: dict[str, Any]) -> Loss:
    """Return the loss of a stored config node, with the terms it consists of."""

    def restored(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return restore_loss(value) if "_target_" in value else {key: restored(child) for key, child in value.items()}

    make_loss = find_class(node, segframe.models.losses, Loss)
    return make_loss(**{key: restored(value) for key, value in arguments(node).items()})


def arguments(node: dict[str, Any]) -> dict[str, Any]:
    """Return a stored config node without Hydra's own keys."""
    return {key: value for key, value in node.items() if not key.startswith("_")}


def find_class(node: dict[str, Any], package: ModuleType, contract: type) -> type:
    """Return the class that a stored config node names if `package` exports it; UserError otherwise."""
    known = public_classes(package, contract)
    if node["_target_"] not in known:
        raise UserError(f"the checkpoint asks for {node['_target_']}, which is none of {', '.join(sorted(known))}")
    return known[node["_target_"]]


def public_classes(package: ModuleType, contract: type) -> dict[str, type]:
    """Return the concrete classes of a contract that a package exports, by their public names."""
    members = {f"{package.__name__}.{name}": getattr(package, name) for name in package.__all__}
    return {
        name: member
        for name, member in members.items()
        if inspect.isclass(member) and issubclass(member, contract) and not inspect.isabstract(member)
    }
