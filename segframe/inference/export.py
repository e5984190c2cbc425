"""Export of a checkpoint to one file for other programs, after a check that it computes the same."""

import hashlib
import inspect
import json
import statistics
import tempfile
import timeit
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segframe import __version__
from segframe.config.composition import chosen_options
from segframe.config.schema import ExportConfig
from segframe.config.validate import check_keys, did_you_mean
from segframe.data.pixel_format import PixelFormat
from segframe.errors import UserError
from segframe.files import atomic_write
from segframe.inference import export_graph, int8
from segframe.inference.build import build_dataset
from segframe.inference.export_graph import Deployed
from segframe.inference.onnx_network import open_session, run_session
from segframe.inference.parity import SIZES, Parity, Run, check_parity, sample_images
from segframe.models.from_checkpoint import Restored, restore
from segframe.visualization.tables import empty_table, print_table

SUFFIXES = {"onnx": ".onnx", "int8": ".onnx", "torch_export": ".pt2"}
METADATA_FILE = "segframe.json"
"""In a file of torch.export."""
TIMED = (1, 256, 256)
"""The images that the table's times are of."""
TIMED_RUNS = 5


def export_checkpoint(config: DictConfig) -> None:
    """Export, check, write the file, and print what was checked, its size and its speed."""
    check_keys(config, ExportConfig)
    setting, output = f"format={config.format}", Path(config.output)
    if config.format not in SUFFIXES:
        raise UserError(f"{setting}: unknown format{did_you_mean(config.format, SUFFIXES)}")
    if output.suffix != SUFFIXES[config.format]:
        raise UserError(f"output={output}: a file of {setting} ends in {SUFFIXES[config.format]}; rename it")
    if config.format != "torch_export":
        export_graph.require_packages(setting)
    restored = restore(config.checkpoint, config.output_stride, trust=config.trust)
    backbone = restored.segmenter.backbone
    if not backbone.is_exportable:
        raise UserError(
            f"checkpoint={config.checkpoint}: torch.export cannot trace a {type(backbone).__name__} backbone for "
            "images of any size, since its windows depend on the size; export a network with another backbone"
        )
    pixels = PixelFormat.of_checkpoint(restored.segmenter.channels, restored.metadata.config)
    dtype = torch.uint8 if pixels.max_value == 255 else torch.float32
    metadata = describe(restored, pixels, config)
    network = Deployed(restored.segmenter)
    run_network = partial(run_torch, network)
    with torch.inference_mode(False):
        program = export_graph.trace(network, sample_images(export_graph.TRACED, pixels.channels, dtype), setting)
    if config.format == "torch_export":
        content, run_exported = save_program(program, metadata)
    else:
        proto = export_graph.to_onnx(program, network, config.opset, setting)
        content = export_graph.add_metadata(proto, metadata)
        run_exported = partial(run_session, open_session(content))
    print_parity(check_parity(run_network, run_exported, pixels.channels, dtype, setting))
    if config.format == "int8":
        proto, content, run_exported = quantized(config, restored, proto, metadata, run_network)
    if config.format != "torch_export" and not config.scores:
        content = export_graph.add_metadata(export_graph.without_scores(proto), metadata)
        run_exported = partial(run_session, open_session(content))
    with atomic_write(output) as file:
        file.write(content)
    print_speed(restored.path, output, run_network, run_exported, sample_images(TIMED, pixels.channels, dtype))


def quantized(
    config: DictConfig, restored: Restored, proto: Any, metadata: dict[str, Any], network: Run
) -> tuple[Any, bytes, Run]:
    """Return a graph in int8, its file's bytes and how to run it, after its check on validation images."""
    trust = config.trust if chosen_options()["data"] == "checkpoint" else None
    classes = restored.metadata.classes
    train, val = (
        build_dataset(config.data, split, classes, trust) for split in (config.data.train_split, config.data.val_split)
    )
    proto = int8.quantize(proto, int8.calibration_images(train, config.calibration_images))
    content = export_graph.add_metadata(proto, metadata)
    run = partial(run_session, open_session(content))
    channels, dtype = restored.segmenter.channels, train[0]["image"].dtype
    int8.check_sizes(network, run, (sample_images(size, channels, dtype) for size in SIZES))
    loss = int8.check_int8(network, run, val, config.validation_images, config.data.num_workers)
    print(
        f"int8 on {loss.images} images of {config.data.val_split}: {loss.agreement:.4f} of the classes agree, "
        f"mIoU {loss.int8_miou:.4f} (network: {loss.miou:.4f})"
    )
    return proto, content, run


def describe(restored: Restored, pixels: PixelFormat, config: DictConfig) -> dict[str, Any]:
    """Return the metadata of an exported file."""
    return {
        "segframe_version": __version__,
        "format": config.format,
        "classes": list(restored.metadata.classes),
        "palette": [list(colour) for colour in restored.metadata.palette],
        "channels": pixels.channels,
        "max_value": pixels.max_value,
        "config": OmegaConf.to_yaml(OmegaConf.create(restored.metadata.config)),  # JSON has no numbers as keys
        "checkpoint_sha256": hashlib.sha256(restored.path.read_bytes()).hexdigest(),
        **({} if config.format == "torch_export" else {"opset": config.opset}),
    }


def run_torch(network: torch.nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        classes, scores = network(images)
    return classes, scores


def save_program(program: Any, metadata: dict[str, Any]) -> tuple[bytes, Run]:
    """Return the bytes of a file of torch.export, and how to run what it holds."""
    with tempfile.TemporaryDirectory() as folder, export_graph.quiet():
        path = Path(folder) / "program.pt2"
        torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})
        loaded = torch.export.load(path)
        # Guards refuse sizes that the graph is right for: they say that a map of several cells was traced. Torch 2.7
        # has none.
        free = {"check_guards": False} if "check_guards" in inspect.signature(loaded.module).parameters else {}
        return path.read_bytes(), partial(run_torch, loaded.module(**free))


def print_parity(parity: list[Parity]) -> None:
    table = empty_table(["images", "equal classes", "difference / range", "ties"], "float32 against the network")
    for (batch, height, width), agreement, difference, ties in parity:
        table.add_row(f"{batch} x {height} x {width}", f"{agreement:.5f}", f"{difference:.1e}", str(ties))
    print_table(table)


def print_speed(checkpoint: Path, output: Path, network: Run, exported: Run, images: Tensor) -> None:
    """Print the size of both files and the time of a run."""
    table = empty_table(
        ["", "MB", "ms"], "an image of {1}x{2}, {threads} threads".format(*TIMED, threads=torch.get_num_threads())
    )
    rows = {f"network ({checkpoint.name})": (checkpoint, network), str(output): (output, exported)}
    for name, (path, run) in rows.items():
        table.add_row(name, f"{path.stat().st_size / 1e6:.1f}", f"{milliseconds(run, images):.1f}")
    print_table(table)


def milliseconds(run: Run, images: Tensor) -> float:
    """Return the median time of a run, after one to warm up."""
    times = timeit.repeat(partial(run, images), number=1, repeat=TIMED_RUNS + 1)
    return 1000 * statistics.median(times[1:])
