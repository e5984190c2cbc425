"""Open a trained network, whichever file holds it, ready to run."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from segframe.errors import UserError
from segframe.inference import onnx_network
from segframe.inference.build import pick_device
from segframe.inference.network import Network
from segframe.inference.onnx_network import OnnxNetwork
from segframe.inference.prepare import prepare
from segframe.models.from_checkpoint import rebuild
from segframe.models.from_third_party import restore_third_party
from segframe.models.weights import checkpoint
from segframe.models.weights.checkpoint import CheckpointMetadata


class OpenedNetwork(NamedTuple):
    """A trained network on its device, with its file and the file's metadata."""

    network: Network
    metadata: CheckpointMetadata
    path: Path


def open_network(
    source: str | Path,
    device: torch.device,
    *,
    required: bool = True,
    output_stride: int | None = None,
    precision: str | None = None,
    trust: Collection[str] = (),
) -> OpenedNetwork:
    """Return the network of a run's folder, a checkpoint, another project's known file, or an exported .onnx file.

    `required`: UserError where an exported file cannot run on the device; else it runs on the CPU then. `output_stride`
    and `trust`: see models.from_checkpoint.restore. `precision`: see prepare.
    """
    path = checkpoint.find_checkpoint(source)
    if is_onnx(path):
        check_fixed(path, output_stride, precision)
        network = open_onnx(path, device, required)
        return OpenedNetwork(network, network.metadata, path)
    content = checkpoint.load_file(path)
    if checkpoint.KEY in content:
        restored = rebuild(*checkpoint.parse_run(content, path, trust), path, output_stride)
    else:
        restored = restore_third_party(content, path, output_stride)
    segmenter = prepare(restored.segmenter, restored.metadata.config, device, precision)
    return OpenedNetwork(segmenter, restored.metadata, path)


def open_configured(config: DictConfig) -> OpenedNetwork:
    """Return the network that an InferenceConfig names, on its device."""
    return open_network(
        config.checkpoint,
        pick_device(config.accelerator),
        required=config.accelerator != "auto",
        output_stride=config.output_stride,
        precision=config.precision,
        trust=config.trust,
    )


def read_metadata(source: str | Path) -> CheckpointMetadata:
    """Return the metadata of a run's folder, a checkpoint, another project's known file, or an exported file."""
    path = checkpoint.find_checkpoint(source)
    if is_onnx(path):
        return onnx_network.session_metadata(onnx_network.open_file(path, onnx_network.CPU, optimize=False), path)
    content = checkpoint.load_file(path)
    if checkpoint.KEY in content:
        return checkpoint.parse_run(content, path)[0]
    return restore_third_party(content, path).metadata


def is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def check_fixed(path: Path, output_stride: int | None, precision: str | None) -> None:
    """UserError for settings that an export has fixed."""
    if output_stride is not None:
        raise UserError(
            f"output_stride={output_stride}: {path} is an exported file, whose stride is fixed; export the checkpoint "
            f"with output_stride={output_stride}"
        )
    if precision not in (None, "32-true"):
        raise UserError(
            f"precision={precision}: {path} is an exported file, whose precision is fixed; give the checkpoint, or "
            "leave precision=null"
        )


def open_onnx(path: Path, device: torch.device, required: bool) -> OnnxNetwork:
    """Return the network of an exported file, on the CPU where the installed onnxruntime does not use the GPU."""
    network = OnnxNetwork(path, device)
    if device.type == "cuda" and onnx_network.CUDA not in network.session.get_providers():
        if required:
            raise UserError(
                f"{path}: the installed onnxruntime does not run on this GPU; install onnxruntime-gpu in its place, or "
                "choose the CPU"
            )
        network.device = onnx_network.CPU
    return network
