"""Where a backbone's first weights come from: torchvision by name, a local file, or nowhere."""

from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from segframe.checkpoint import read_state_dict
from segframe.errors import UserError


def require_variant(variant: str, known: tuple[str, ...]) -> None:
    """Fails where torchvision's `variant` is none of this backbone's."""
    if variant not in known:
        raise UserError(f"backbone.variant={variant}: it is one of {', '.join(known)}")


def torchvision_state(variant: str, weights: str) -> dict[str, Tensor]:
    """The state dict of torchvision's classifier `variant`: `weights` is torchvision's tag or a local file."""
    if Path(weights).is_file():
        return read_state_dict(Path(weights))
    known = get_model_weights(variant)
    if weights not in known.__members__:
        raise UserError(
            f"backbone.weights={weights}: neither a file nor weights of torchvision's {variant}, "
            f"which are {', '.join(known.__members__)} (null: from scratch)"
        )
    url = known[weights].url
    try:
        return torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
    except (URLError, HTTPException, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"backbone.weights={weights}: cannot download {url} ({error}); put the file into {folder}, "
            "give its path as backbone.weights=<file>, or train from scratch with backbone.weights=null"
        ) from error


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
