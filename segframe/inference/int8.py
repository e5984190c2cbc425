"""Static int8 quantisation of an ONNX graph, calibrated on images, and its check on validation images."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from segframe.data.base import SegmentationDataset
from segframe.data.image_batches import image_loader
from segframe.errors import UserError
from segframe.inference.export_graph import quiet
from segframe.inference.metrics import ConfusionMatrix, compute_metrics
from segframe.inference.parity import Run

QUANTIZED = ["Conv", "Relu", "Add", "Concat", "MaxPool"]
"""The operators that run in int8: those around convolutions. Resizing and argmax stay in float32."""
MIN_AGREEMENT = 0.99
MAX_MIOU_LOSS = 0.005


def quantize(proto: Any, images: Iterable[Tensor]) -> Any:
    """Return an ONNX model in int8 (QDQ: weights per channel, activations by their range on `images`)."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = ({"images": image.numpy()} for image in images)
    reader = SimpleNamespace(get_next=lambda: next(feeds, None))  # a CalibrationDataReader
    with tempfile.TemporaryDirectory() as folder, quiet():
        path, fused, quantized = (str(Path(folder) / f"{name}.onnx") for name in ("float", "fused", "int8"))
        onnx.save(proto, path)
        quant_pre_process(path, fused, skip_symbolic_shape=True)  # batch norm becomes part of the convolutions
        quantization.quantize_static(
            fused,
            quantized,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(quantized)


def calibration_images(dataset: SegmentationDataset, number: int) -> Iterator[Tensor]:
    """Yield images (1, C, H, W) spread over a dataset."""
    step = max(1, len(dataset) // number)
    for index in range(0, min(len(dataset), step * number), step):
        yield dataset[index]["image"].unsqueeze(0)


class Int8Accuracy(NamedTuple):
    """mIoU of the int8 and the float32 network on the images of a split, and how far their classes agree."""

    images: int
    agreement: float
    """Share of the pixels with equal classes."""
    miou: float
    int8_miou: float


def check_int8(
    network: Run, quantized: Run, dataset: SegmentationDataset, number: int | None, num_workers: int | None
) -> Int8Accuracy:
    """Return the accuracy of int8 on the first `number` images (None: all); UserError where it is too low."""
    equal = pixels = images = 0
    matrices = [ConfusionMatrix(len(dataset.classes)) for _ in range(2)]
    for batch in islice(image_loader(dataset, num_workers), number):
        classes = [run(batch["image"].contiguous())[0] for run in (network, quantized)]
        for matrix, predicted in zip(matrices, classes, strict=True):
            matrix.update(predicted, batch["mask"])
        equal += int((classes[0] == classes[1]).sum())
        pixels += classes[0].numel()
        images += 1
    mious = [compute_metrics(matrix.matrix, dataset.classes, "val")["val/miou"] for matrix in matrices]
    found = Int8Accuracy(images, equal / pixels, *mious)
    if found.agreement < MIN_AGREEMENT or abs(found.miou - found.int8_miou) > MAX_MIOU_LOSS:
        raise UserError(
            f"format=int8: on {images} images {found.agreement:.4f} of the classes agree with the network's (at least "
            f"{MIN_AGREEMENT}), and the mIoU is {found.int8_miou:.4f} instead of {found.miou:.4f} (at most "
            f"{MAX_MIOU_LOSS} apart); nothing was written: set calibration_images higher, or format=onnx"
        )
    return found


def check_sizes(network: Run, quantized: Run, samples: Iterable[Tensor]) -> None:
    """UserError where int8 does not run on images that the network runs on."""
    for images in samples:
        try:
            expected = network(images)[0]
        except RuntimeError:
            continue  # too small for this network
        try:
            found = quantized(images)[0]
        except Exception as error:  # onnxruntime's own kinds
            raise UserError(f"format=int8: it fails for images of {tuple(images.shape)} ({error})") from error
        if found.shape != expected.shape:
            raise UserError(f"format=int8: classes of images of {tuple(images.shape)} are {tuple(found.shape)}")
