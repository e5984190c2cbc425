"""Checkpoint files, read as data and never as code: find, load, verify and parse them."""

import re
import warnings
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.config.old_names import rename_targets
from segframe.config.saved_run import resolve_references
from segframe.config.trust import check_trust
from segframe.errors import UserError

KEY = "segframe"
"""Key of segframe's own entry in Lightning's checkpoint dictionary."""
NETWORK_PREFIX = "segmenter."
"""Prefix of the network's parameters in the LightningModule's state dict."""
EXPORTED = {
    ".onnx": "an exported file; give the checkpoint that it was made from",
    ".pt2": "a file of torch.export, for other programs; give the checkpoint, or to evaluate, predict and report an "
    ".onnx file (format=onnx)",
}
"""Formats of scripts/export.py by suffix."""
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")
"""Keys under which Lightning, VainF, pytorch-fcn's trainer and torchvision's store the state dict."""
# Other projects store scores as numpy numbers beside the weights; these names stand for data, not code.
NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]


class CheckpointMetadata(NamedTuple):
    """Description of a trained network: enough to build it again without config files or data."""

    config: dict[str, Any]
    """The run's resolved config as plain containers."""
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def find_checkpoint(path: str | Path) -> Path:
    """Return the file itself, or the best (else the last) checkpoint of a run's folder."""
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
    """Return the dictionary that torch.save wrote, tensors on the CPU; only plain containers and tensors are read."""
    if path.suffix.lower() in EXPORTED:
        raise UserError(f"{path} is {EXPORTED[path.suffix.lower()]}")
    if zipfile.is_zipfile(path):  # torch.save's format since 2020
        verify_checksums(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMPY_SCALARS):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises almost anything for a damaged file
        raise UserError(f"{path} cannot be read as a checkpoint ({_load_error(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    return content


def verify_checksums(path: Path) -> None:
    """Raise UserError if a zip file is cut off or a checksum does not match, which torch.load does not notice."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # so does zipfile
        raise UserError(f"{path} is damaged ({error})") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of {damaged} does not match")


def _load_error(error: Exception) -> str:
    """The message of torch.load, without its advice to run the file's code."""
    text = str(error).strip()
    refused = re.search(r"GLOBAL (\S+) was not", text)
    if refused:
        return f"it holds a {refused[1]}; only tensors and plain values are read: save the state_dict() alone"
    if text.startswith("Weights only load failed"):
        return "it is damaged, or no file that torch.save wrote"
    return text.partition("\n")[0]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    return extract_state_dict(load_file(path), path)


def extract_state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a bare or wrapped state dict, without the prefix of DistributedDataParallel."""
    if KEY in content:
        raise UserError(f"{path} is a segframe checkpoint, not a backbone's file: start from it with init_from={path}")
    wrapped = (content[key] for key in WRAPPERS if isinstance(content.get(key), dict))
    state = next(wrapped, content)
    tensors = {
        name.removeprefix("module."): t for name, t in state.items() if isinstance(name, str) and isinstance(t, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} holds no state dict of tensors")
    return tensors


def describe(config: DictConfig, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the metadata as plain containers, to be stored under KEY; references between settings stay."""
    colours = [list(colour) for colour in palette]
    return {"config": OmegaConf.to_container(config), "classes": list(classes), "palette": colours}


def load_run(path: Path, trust: Collection[str] | None = None) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    return parse_run(load_file(path), path, trust)


def parse_run(
    content: dict[str, Any], path: Path, trust: Collection[str] | None = None
) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    """Return the metadata and the network's state dict from the content of the file at `path`.

    UserError where they are incomplete, or where the config computes values. `trust`, where the network is to be built:
    the names outside segframe that it may have, see check_trust.
    """
    try:
        stored, tensors = content[KEY], content["state_dict"]
        state = {
            name.removeprefix(NETWORK_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(NETWORK_PREFIX)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a segframe checkpoint ({error!r})") from error
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise incomplete(path)
    metadata = parse_metadata(stored, path)
    if trust is not None:
        try:
            check_trust(metadata.config, trust, ["backbone", "head", "aux_head"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return metadata, state


def parse_metadata(stored: Any, path: Path) -> CheckpointMetadata:
    """Return the description of a network from plain containers that the file at `path` holds, see describe."""
    try:
        config, classes = stored["config"], tuple(stored["classes"])
        palette = tuple((int(red), int(green), int(blue)) for red, green, blue in stored["palette"])
        complete = (
            isinstance(config["normalize"], dict)
            and all(isinstance(name, str) for name in classes)
            and 0 < len(classes) == len(palette) <= IGNORE_INDEX
            and all(0 <= value <= 255 for rgb in palette for value in rgb)
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is not a segframe checkpoint ({error!r})") from error
    if not complete:
        raise incomplete(path)
    try:
        return CheckpointMetadata(rename_targets(resolve_references(config)), classes, palette)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def incomplete(path: Path) -> UserError:
    return UserError(f"{path} is not a segframe checkpoint: the description of its network is incomplete")
