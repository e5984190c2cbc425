"""A checkpoint back to its network, built only from parts of our own that it names exactly."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

import segframe.models.backbones
import segframe.models.heads
import segframe.models.losses
from segframe.errors import UserError
from segframe.models.backbones.base import Backbone
from segframe.models.heads.base import Head
from segframe.models.losses.base import Loss
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights import checkpoint

# What libraries build and drop: VGG's classifier has 124 million parameters.
SPARE_PARAMETERS, SPARE_TENSORS = 200_000_000, 1000


class Restored(NamedTuple):
    """A trained network, ready for use, and what its checkpoint says of it."""

    segmenter: Segmenter
    metadata: checkpoint.CheckpointMetadata
    path: Path


def restore(path: str | Path, output_stride: int | None = None, *, diverged: bool = False) -> Restored:
    """The network of a checkpoint or a run's folder, in evaluation mode, from that file alone.

    `output_stride`: the backbone's, where it shall differ from the trained network's: 8 for denser logits than at 16.
    `diverged`: whether weights may be NaN or infinite, with which a network answers nothing.
    """
    path = checkpoint.find_checkpoint(path)
    metadata, state = checkpoint.load_run(path)
    config = metadata.config
    try:
        node, normalize = config["backbone"], config["normalize"]
        own = {name: None if name == "weights" else value for name, value in arguments(node).items()}
        if output_stride is not None:
            if "output_stride" not in own:
                raise UserError(f"output_stride={output_stride}: {node['_target_']} has a fixed output stride")
            own["output_stride"] = output_stride
        with no_larger_than(state):
            backbone = find_class(node, segframe.models.backbones, Backbone)(**own)

            def restore_head(name: str) -> Head:
                make_head = find_class(config[name], segframe.models.heads, Head)
                return make_head(
                    features=backbone.features, num_classes=len(metadata.classes), **arguments(config[name])
                )

            aux_head = restore_head("aux_head") if config.get("aux_head") else None
            scales = config.get("input_scales", [])
            segmenter = Segmenter(backbone, restore_head("head"), aux_head, Normalize(**normalize), scales)
        if output_stride is not None:
            check_stride_is_free(segmenter, state, output_stride)
        segmenter.load_state_dict(state)
        if not diverged:
            check_finite(path, segmenter)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: the network it describes cannot be built ({reason})") from error
    return Restored(segmenter.eval(), metadata, path)


@contextmanager
def no_larger_than(state: dict[str, Tensor]) -> Iterator[None]:
    """Within, building a network ends in UserError once it has far more parameters than the state dict's.

    That is before they are filled: memory that is only asked for is none yet. Counted are the bytes that are there:
    a tensor's size can be claimed.
    """
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in state.values()}
    tensors, room = len(state) + SPARE_TENSORS, sum(storages.values()) + SPARE_PARAMETERS

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal tensors, room
        if not parameter.is_meta:
            tensors, room = tensors - 1, room - parameter.numel()
        if tensors < 0 or room < 0:
            raise UserError("the checkpoint describes a network far larger than its own weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_stride_is_free(segmenter: Segmenter, state: dict[str, Tensor], output_stride: int) -> None:
    """Fails where a network's weights were made for another output stride (FCN's transposed convolutions)."""
    for name, tensor in segmenter.state_dict().items():
        if name in state and state[name].shape != tensor.shape:
            raise UserError(
                f"output_stride={output_stride}: the trained {name} {tuple(state[name].shape)} belongs to one output "
                f"stride; at this one it would be {tuple(tensor.shape)}"
            )


def check_finite(path: Path, segmenter: Segmenter) -> None:
    """UserError where numbers of a network are NaN or infinite."""
    for name, tensor in segmenter.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{path}: {name} holds numbers that are not finite, so this network answers nothing: "
                "choose a checkpoint from before"
            )


def arguments(node: dict[str, Any]) -> dict[str, Any]:
    """A stored config node without Hydra's own keys."""
    return {key: value for key, value in node.items() if not key.startswith("_")}


def restore_loss(node: dict[str, Any]) -> Loss:
    """The loss that a checkpoint describes, with the terms it is made of."""

    def made(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return restore_loss(value) if "_target_" in value else {key: made(child) for key, child in value.items()}

    return find_class(node, segframe.models.losses, Loss)(
        **{key: made(value) for key, value in arguments(node).items()}
    )


def find_class(node: dict[str, Any], package: ModuleType, contract: type) -> type:
    """The class that a checkpoint names, if it is one that the package exports; UserError otherwise."""
    known = public_classes(package, contract)
    if node["_target_"] not in known:
        raise UserError(f"the checkpoint asks for {node['_target_']}, which is none of {', '.join(sorted(known))}")
    return known[node["_target_"]]


def public_classes(package: ModuleType, contract: type) -> dict[str, type]:
    """The concrete classes of a contract that a package exports, by their public names."""
    members = {f"{package.__name__}.{name}": getattr(package, name) for name in package.__all__}
    return {
        name: member
        for name, member in members.items()
        if inspect.isclass(member) and issubclass(member, contract) and not inspect.isabstract(member)
    }
