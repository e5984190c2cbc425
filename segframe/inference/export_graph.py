"""The graph of a network for other programs: raw pixels in, classes and scores out, for every size of image."""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.segmenter import Segmenter

TRACED = (2, 64, 96)
"""Batch, height and width of the images that a graph is traced with."""
AXES = {0: "batch", 2: "height", 3: "width"}
MODULES = ("onnx", "onnxscript", "onnxruntime")
NOISY = ("torch.fx.experimental.symbolic_shapes", "torch.onnx", "onnx_ir", "onnxscript", "torch.export", "root")
"""Loggers that report an export's inner steps; what goes wrong in them the parity check finds."""


class Deployed(nn.Module):
    """A network as it is exported: images (N, C, H, W) to classes (N, H, W) uint8 and scores (N, classes, H, W).

    Images are uint8, or float32 in 0 ... 255 for a network trained on 16 bits. In float32, without autocast.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter.float().to(memory_format=torch.contiguous_format).eval()
        self.segmenter.memory_format = torch.contiguous_format
        self.segmenter.autocast_dtype = None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.segmenter(images)
        return scores.argmax(1).to(torch.uint8), scores


def require_packages(setting: str) -> None:
    """UserError where the packages of an export are not installed."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise UserError(f"{setting}: needs {', '.join(missing)}; pip install 'segframe[export]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and logs of an export."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    try:
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def trace(network: Deployed, images: Tensor, setting: str) -> Any:
    """Return the graph (torch.export.ExportedProgram) of a network, for any batch, height and width.

    UserError, naming the parts, where torch cannot trace the network so.
    """
    shapes = {"images": dict.fromkeys(AXES, torch.export.Dim.DYNAMIC)}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises almost anything for a network that it cannot trace
        raise refused(network, setting, error) from error


def refused(network: Deployed, setting: str, error: Exception) -> UserError:
    parts = " with ".join(type(part).__name__ for part in (network.segmenter.backbone, network.segmenter.head))
    lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0].strip()[:200] if lines else 'no reason given'}"
    return UserError(f"{setting}: {parts} cannot be exported ({reason}); choose another backbone or head")


def to_onnx(program: Any, network: Deployed, opset: int, setting: str) -> Any:
    """Return a traced graph as an onnx.ModelProto with the inputs `images` and the outputs `classes`, `scores`."""
    try:
        with quiet():
            model = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=["images"],
                output_names=["classes", "scores"],
            )
    except Exception as error:  # so does the conversion
        raise refused(network, setting, error) from error
    proto = model.model_proto  # type: ignore[union-attr]
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # paths of this machine's files
    proto.graph.ClearField("value_info")
    proto.graph.ClearField("metadata_props")
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    renamed = {dims[axis].dim_param: name for axis, name in AXES.items()}
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: renamed.get(found[0], found[0]), dim.dim_param)
    return proto


def without_scores(proto: Any) -> Any:
    """Return a copy of an ONNX model with the output `classes` alone."""
    copied = type(proto)()
    copied.CopyFrom(proto)
    del copied.graph.output[1]
    return copied


def add_metadata(proto: Any, metadata: dict[str, Any]) -> bytes:
    """Return an ONNX file's bytes with metadata: strings as they are, other values as JSON."""
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    content: bytes = proto.SerializeToString()
    return content
