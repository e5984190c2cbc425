"""Exported files (.onnx) run by onnxruntime, in a checkpoint's place."""

import json
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from segframe.errors import ImageError, UserError
from segframe.inference.base import Inference, WholeImage
from segframe.inference.network import ClassMap, Network, no_scores
from segframe.models.logits import Logits
from segframe.models.weights.checkpoint import CheckpointMetadata, parse_metadata

CPU = torch.device("cpu")
CUDA = "CUDAExecutionProvider"
"""onnxruntime's name of its code for Nvidia's GPUs."""
SILENT = 4
"""onnxruntime's log level FATAL: errors also arrive as exceptions."""


class OnnxNetwork:
    """The network of an exported file, float32 or int8. Several threads may call it at once."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self.session = open_file(path, device)
        self.metadata = session_metadata(self.session, path)
        (images, *more), outputs = self.session.get_inputs(), {out.name: out for out in self.session.get_outputs()}
        if more or images.name != "images" or len(images.shape) != 4 or "classes" not in outputs:
            raise UserError(f"{path}: its inputs and outputs are not those of a file of scripts/export.py")
        self.channels: int = images.shape[1]
        self.reads_bytes: bool = images.type == "tensor(uint8)"
        self.has_scores = "scores" in outputs

    @cached_property
    def float_session(self) -> Any:
        """The session for images in float32: the graph begins with a conversion to it, from whatever type."""
        if not self.reads_bytes:
            return self.session
        require("onnx", self.path)
        import onnx

        proto = onnx.load(self.path)
        proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        proto.graph.ClearField("value_info")
        return open_session(proto.SerializeToString(), self.device)

    def outputs(self, images: Tensor) -> dict[str, Logits | ClassMap]:
        """Return the prediction, "main", for images (N, C, H, W) in 0 ... 255, uint8 or float."""
        as_bytes = self.reads_bytes and images.dtype == torch.uint8
        session = self.session if as_bytes else self.float_session
        pixels = images if as_bytes else images.float()
        height, width = images.shape[-2:]
        try:
            (output,) = run_session(session, pixels, ["scores" if self.has_scores else "classes"])
        except Exception as error:  # onnxruntime's own kinds
            reason = " ".join(str(error).split())
            if "allocate memory" in reason or "bad alloc" in reason:
                raise MemoryError(reason) from error
            raise ImageError(
                f"{self.path} does not run on images of {height}x{width} pixels: {reason[:250]}"
            ) from error
        output = output.to(images.device)
        return {"main": Logits(output, (height, width), None) if self.has_scores else ClassMap(output, self.path)}


def check_scores(network: Network, inference: Inference, uses: Mapping[str, bool]) -> None:
    """UserError where the inference, or another setting in use, needs scores that an exported file lacks."""
    if not isinstance(network, OnnxNetwork) or network.has_scores:
        return
    for name in (name for name, used in {"inference": not isinstance(inference, WholeImage), **uses}.items() if used):
        raise UserError(f"{name}: {no_scores(network.path)}")


def session_metadata(session: Any, path: Path) -> CheckpointMetadata:
    """Return the description of the network of a session; UserError for another program's file."""
    found = session.get_modelmeta().custom_metadata_map
    if "segframe_version" not in found:
        raise UserError(f"{path} is no file of segframe: its metadata name no classes; give one of scripts/export.py")
    if "config" not in found:
        raise UserError(f"{path} was exported by an older version, without its run's settings; export it again")
    try:
        stored = {name: json.loads(found[name]) for name in ("classes", "palette")}
        config = OmegaConf.to_container(OmegaConf.create(found["config"]))
    except (LookupError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: its metadata cannot be read ({' '.join(str(error).split())[:200]})") from error
    return parse_metadata({**stored, "config": config}, path)


def open_file(path: Path, device: torch.device, optimize: bool = True) -> Any:
    """Return onnxruntime's session of a file; UserError where it cannot be opened."""
    require("onnxruntime", path)
    try:
        return open_session(path, device, optimize)
    except Exception as error:  # onnxruntime's own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as an ONNX file: it is damaged, or none ({reason})") from error


def open_session(model: bytes | str | Path, device: torch.device = CPU, optimize: bool = True) -> Any:
    """Return onnxruntime's session of a file, or of its bytes, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = SILENT
    # Threads that wait without spinning: 0.8 of the time on a busy machine (loader workers, other requests).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
        index = torch.cuda.current_device() if device.index is None else device.index
        providers.insert(0, (CUDA, {"device_id": index, "use_tf32": 0}))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=providers)


def run_session(session: Any, images: Tensor, outputs: list[str] | None = None) -> tuple[Tensor, ...]:
    """Return the outputs of onnxruntime's session, by default all, for images (N, C, H, W)."""
    pixels = images.cpu().contiguous().numpy()
    return tuple(torch.from_numpy(output) for output in session.run(outputs, {"images": pixels}))


def require(package: str, path: Path) -> None:
    """UserError where a package is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{path} needs {package}; pip install 'segframe[export]'")
