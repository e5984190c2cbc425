"""Where a backbone's first weights come from: torchvision or timm by name, a local file, or nowhere."""

import logging
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from segframe.errors import UserError
from segframe.models.weights.checkpoint import load_state_dict

log = logging.getLogger(__name__)

IMAGENET = ("imagenet", "IMAGENET1K_V1")
"""`weights: imagenet`, and what stored configs have for it: each library's ImageNet weights of a backbone."""


def require_variant(variant: str, known: tuple[str, ...]) -> None:
    """Fails where `variant` is none of this backbone's."""
    if variant not in known:
        raise UserError(f"backbone.variant={variant}: it is one of {', '.join(known)}")


def torchvision_state(variant: str, weights: str) -> dict[str, Tensor]:
    """The state dict of torchvision's classifier `variant`: `weights` is imagenet, torchvision's tag or a file."""
    if Path(weights).is_file():
        return read_file(Path(weights))
    known = get_model_weights(variant)
    tag = "IMAGENET1K_V1" if weights == "imagenet" else weights
    if tag not in known.__members__:
        raise UserError(
            f"backbone.weights={weights}: neither a file nor weights of torchvision's {variant}, "
            f"which are imagenet, {', '.join(known.__members__)} (null: from scratch)"
        )
    url = known[tag].url
    try:
        return torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
    except (URLError, HTTPException, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"backbone.weights={weights}: cannot download {url} ({error}); put the file into {folder}, "
            "give its path as backbone.weights=<file>, or train from scratch with backbone.weights=null"
        ) from error


def timm_state(variant: str, weights: str, imagenet: str | None) -> dict[str, Tensor]:
    """The state dict of timm's classifier `variant`: `weights` is imagenet, timm's tag or a file in timm's format.

    `imagenet` is the tag that "imagenet" stands for; None: timm's default.
    """
    if Path(weights).is_file():
        return read_file(Path(weights))
    timm = import_timm(f"backbone.weights={weights} is no file, and the names of timm's {variant} need timm")
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{variant}.*")]
    tag = (imagenet or timm.get_pretrained_cfg(variant).tag) if weights in IMAGENET else weights
    if tag not in known:
        raise UserError(
            f"backbone.weights={weights}: neither a file nor weights of timm's {variant}, "
            f"which are {', '.join(['imagenet', *known]) if known else 'none'} (null: from scratch)"
        )
    try:
        source = timm.create_model(f"{variant}.{tag}", pretrained=True)
    except Exception as error:  # the hub lets its HTTP library's own exceptions through
        raise UserError(
            f"backbone.weights={weights}: cannot get timm's {variant}.{tag} "
            f"({str(error).partition(chr(10))[0]}); give a local copy of its file as backbone.weights=<file>, "
            "or train from scratch with backbone.weights=null"
        ) from error
    mean, std = ([round(255 * value, 3) for value in source.pretrained_cfg[key]] for key in ("mean", "std"))
    log.info("timm's %s.%s was trained with normalize.mean=%s normalize.std=%s", variant, tag, mean, std)
    return source.state_dict()


def import_timm(wanted: str) -> ModuleType:
    """The optional library timm; fails with what it is wanted for."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{wanted}, which is not installed: pip install -e '.[timm]'") from error
    return timm


def read_file(path: Path) -> dict[str, Tensor]:
    """The state dict of a file of torch.save's, or of a .safetensors file (timm's hub) where timm is installed."""
    if path.suffix != ".safetensors":
        return load_state_dict(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs safetensors, which comes with pip install -e '.[timm]'") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a .safetensors file ({error})") from error


def load_strictly(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads every tensor of `net` from `state`; the classifier's layers that `net` lacks are left out."""
    own = net.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(f"backbone.weights={source}: has no tensor {missing[0]!r} ({len(missing)} missing in all)")
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            raise UserError(
                f"backbone.weights={source}: {name} has shape {tuple(state[name].shape)}, "
                f"this backbone needs {tuple(tensor.shape)}"
            )
    net.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
