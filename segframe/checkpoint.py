"""What a checkpoint holds, and how one is read: as data from a stranger, never as code."""

import re
import warnings
import zipfile
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.errors import UserError

KEY = "segframe"  # of our own part in Lightning's checkpoint
MAX_CONFIG = 1_000_000  # values and characters of a stored config; a run's has some thousand
MAX_DEPTH = 50

# A score that another project stored beside its weights is a numpy number; such names stand for data, not code.
NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]


class About(NamedTuple):
    """What a checkpoint says of its network: enough to build it again without config files or data."""

    config: dict[str, Any]
    """The run's resolved config as plain containers."""
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def locate(path: str | Path) -> Path:
    """The checkpoint file that is meant: the file itself, or the best (else last) checkpoint of a run's folder."""
    path = Path(path)
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / "checkpoints" / name).is_file():
                return path / "checkpoints" / name
        raise UserError(f"{path} is a folder without checkpoints/best.ckpt or checkpoints/last.ckpt")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of a file that torch.save wrote, tensors on the CPU; only plain containers and tensors are let in."""
    if zipfile.is_zipfile(path):  # what torch.save has written since 2020
        verify(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_SCALARS):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything; nothing of ours runs in there
        raise UserError(f"{path} cannot be read as a checkpoint ({why(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    return content


def verify(path: Path) -> None:
    """UserError where a file is cut off or its checksums do not fit what it holds: torch.load does not compare them.

    Also where it would become more in memory than it is: torch.save compresses nothing, torch.load inflates all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > path.stat().st_size:
                raise UserError(f"{path} is compressed, as torch.save writes no file: load it and save it again")
            wrong = archive.testzip()
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if wrong is not None:
        raise UserError(f"{path} is damaged: the checksum of {wrong} in it does not fit")


def why(error: Exception) -> str:
    """What torch.load complains of, without its advice to run the file's code."""
    text = str(error).strip()
    stranger = re.search(r"GLOBAL (\S+) was not", text)
    if stranger:
        return f"it holds a {stranger[1]}; only tensors and plain values are read: save the state_dict() alone"
    if text.startswith("Weights only load failed"):
        return "it is damaged, or no file that torch.save wrote"
    return text.partition("\n")[0]


WRAPPINGS = ("state_dict", "model_state", "model_state_dict", "model")
"""Where Lightning, VainF, pytorch-fcn's trainer and torchvision's keep the state dict in their checkpoints."""


def state_dict_of(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds: bare or wrapped, also as DistributedDataParallel's; only its tensors."""
    wrapped = (content[key] for key in WRAPPINGS if isinstance(content.get(key), dict))
    state = next(wrapped, content)
    tensors = {
        name.removeprefix("module."): t for name, t in state.items() if isinstance(name, str) and isinstance(t, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} holds no state dict of tensors")
    return tensors


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict of a file; see state_dict_of."""
    return state_dict_of(read(path), path)


def describe(about: About) -> dict[str, Any]:
    """`about` as plain containers, to be stored."""
    return {"config": about.config, "classes": list(about.classes), "palette": [list(c) for c in about.palette]}


def read_run(path: Path) -> tuple[About, dict[str, Tensor]]:
    """What a segframe checkpoint says of its network, and the network's state dict."""
    content = read(path)
    try:
        stored = content[KEY]
        config, classes, palette = stored["config"], stored["classes"], stored["palette"]
        if not all(isinstance(part, dict) for part in (config, config["normalize"], content["state_dict"])):
            raise TypeError("config, its normalize and state_dict are dictionaries")
        check_plain(config)
        if not 0 < len(classes) <= IGNORE_INDEX or not all(isinstance(name, str) for name in classes):
            raise ValueError("as many names as a mask has values")
        if len(palette) != len(classes):
            raise ValueError("one colour per class")
        about = About(config, tuple(classes), tuple(colour(rgb) for rgb in palette))
        state = network_state(content["state_dict"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a segframe checkpoint: it does not say how its network is built") from error
    return about, state


def check_plain(config: Any) -> None:
    """ValueError where a stored config is more than plain values in nested containers, or larger than any run's.

    A few lists within each other, each named twice, would fill the memory of whoever prints them.
    """
    room = MAX_CONFIG
    rest = [(config, 0)]
    while rest:
        node, depth = rest.pop()
        room -= 1 + len(node) if isinstance(node, str | dict | list | tuple) else 1
        if room < 0 or depth > MAX_DEPTH:
            raise ValueError("a config as large as no run's")
        if isinstance(node, dict):
            rest += [(part, depth + 1) for pair in node.items() for part in pair]
        elif isinstance(node, list | tuple):
            rest += [(part, depth + 1) for part in node]
        elif not isinstance(node, str | float | bool | None) and not (isinstance(node, int) and abs(node) < 1 << 63):
            raise ValueError(f"a {type(node).__name__} in a config")


def colour(rgb: Any) -> tuple[int, int, int]:
    """A stored colour; ValueError or TypeError where it is none."""
    red, green, blue = map(index, rgb)
    if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
        raise ValueError("a colour's parts lie in 0..255")
    return red, green, blue


def network_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a task's state dict."""
    prefix = "segmenter."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
