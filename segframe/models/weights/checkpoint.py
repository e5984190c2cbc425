"""What a checkpoint holds, and how one is read: as data from a stranger, never as code."""

import re
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.config.old_names import rename_targets
from segframe.config.saved_run import resolve_references
from segframe.errors import UserError

KEY = "segframe"  # of our own part in Lightning's checkpoint
MAX_CONFIG = 1_000_000  # values and characters of a stored config; a run's has some thousand
MAX_DEPTH = 50
MAX_NAME = 1000  # characters of a class's name
NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""What the tensors of a network may hold; not complex numbers, nor quantised ones."""

# A score that another project stored beside its weights is a numpy number; such names stand for data, not code.
NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]


class CheckpointMetadata(NamedTuple):
    """What a checkpoint says of its network: enough to build it again without config files or data."""

    config: dict[str, Any]
    """The run's resolved config as plain containers."""
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def find_checkpoint(path: str | Path) -> Path:
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


def load_file(path: Path) -> dict[str, Any]:
    """The content of a file that torch.save wrote, tensors on the CPU; only plain containers and tensors are let in."""
    if zipfile.is_zipfile(path):  # what torch.save has written since 2020
        verify_checksums(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_SCALARS):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything; nothing of ours runs in there
        raise UserError(f"{path} cannot be read as a checkpoint ({why(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    return content


def verify_checksums(path: Path) -> None:
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


def extract_state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds: bare or wrapped, also as DistributedDataParallel's; only its tensors."""
    wrapped = (content[key] for key in WRAPPINGS if isinstance(content.get(key), dict))
    state = next(wrapped, content)
    tensors = {
        name.removeprefix("module."): t for name, t in state.items() if isinstance(name, str) and isinstance(t, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} holds no state dict of tensors")
    with about_file(path):
        check_tensors(tensors)
    return tensors


@contextmanager
def about_file(path: Path) -> Iterator[None]:
    """Has a UserError about what a file holds begin with the file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_tensors(state: dict[str, Tensor]) -> None:
    """UserError where a tensor is no plain array of numbers, which alone can become a network's weights."""
    for name, tensor in state.items():
        if tensor.is_meta:
            raise UserError(f"the tensor {name} has a size, but no numbers (torch's device meta): save it from the CPU")
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.dtype not in NUMBERS:
            kind = " ".join(str(part).removeprefix("torch.") for part in (tensor.layout, tensor.dtype))
            raise UserError(f"the tensor {name} is {kind}: convert it to a dense one of float32 and save it again")


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict of a file; see extract_state_dict."""
    return extract_state_dict(load_file(path), path)


def describe(config: DictConfig, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What a checkpoint stores to build its network again, as plain containers; references between settings stay."""
    colours = [list(colour) for colour in palette]
    return {"config": OmegaConf.to_container(config), "classes": list(classes), "palette": colours}


def load_run(path: Path) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    """What a segframe checkpoint says of its network, and the network's state dict."""
    return parse_run(load_file(path), path)


def parse_run(content: dict[str, Any], path: Path) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    """The same of what was read from a file, checked: whatever a checkpoint says comes through here."""
    try:
        stored = content[KEY]
        config, classes, palette = stored["config"], stored["classes"], stored["palette"]
        if not all(isinstance(part, dict) for part in (config, config["normalize"], content["state_dict"])):
            raise TypeError("config, its normalize and state_dict are dictionaries")
        if not 0 < len(classes) <= IGNORE_INDEX or not all(isinstance(name, str) for name in classes):
            raise ValueError("as many names as a mask has values")
        if len(palette) != len(classes):
            raise ValueError("one colour per class")
        state = network_state(content["state_dict"])
        with about_file(path):
            check_plain(config)
            config = rename_targets(resolve_references(config))
            check_normalize(config["normalize"])
            check_names(classes)
            check_tensors(state)
        metadata = CheckpointMetadata(config, tuple(classes), tuple(colour(rgb) for rgb in palette))
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a segframe checkpoint: it does not say how its network is built") from error
    return metadata, state


def check_plain(config: Any) -> None:
    """ValueError where a stored config is more than plain values in nested containers, or larger than any run's.

    A few lists within each other, each named twice, would fill the memory of whoever prints them. UserError where it
    would have OmegaConf compute something: a run stores its config resolved.
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


def check_normalize(node: dict[str, Any]) -> None:
    """UserError where a stored normalisation is not three numbers each, as a network computes with them, and a bool."""
    numbers = [node.get(name) for name in ("mean", "std")]
    plain = all(isinstance(each, list | tuple) and len(each) == 3 for each in numbers) and all(
        isinstance(value, float | int) and not isinstance(value, bool) for each in numbers for value in each or ()
    )
    if not plain or not node.keys() <= {"mean", "std", "bgr"} or not isinstance(node.get("bgr", False), bool):
        raise UserError("its normalize is not a mean and a std of 3 numbers each and a bgr of true or false")
    mean, std = torch.tensor(numbers, dtype=torch.float32)
    if not mean.isfinite().all() or not std.isfinite().all() or not std.min() > 0:
        raise UserError(f"its normalize has numbers that are not finite, or a std that is not above 0: {node}")


def check_names(classes: Sequence[str]) -> None:
    """UserError where a class has a name that a terminal, a picture or a list of names cannot show."""
    for k, name in enumerate(classes):
        if len(name) > MAX_NAME:
            raise UserError(f"the name of class {k} has {len(name):,} characters; up to {MAX_NAME:,} are read")
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char != "\t" for char in name):
            raise UserError(f"the name of class {k} holds control characters: {ascii(name)[:80]}")


def colour(rgb: Any) -> tuple[int, int, int]:
    """A stored colour; ValueError or TypeError where it is none."""
    red, green, blue = map(index, rgb)
    if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
        raise ValueError("a colour's parts lie in 0..255")
    return red, green, blue


def network_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a task's state dict."""
    prefix = "segmenter."
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise TypeError("a state dict has tensors")
    return found
