"""Trained networks for Python: images in; classes, probabilities and overlays out."""

import io
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from segframe.config import schema
from segframe.config.validate import did_you_mean
from segframe.data.image_io import as_values
from segframe.data.label_map import Palette
from segframe.data.pixel_format import PixelFormat
from segframe.errors import TO_PREDICT, UserError, check_range, translate_errors
from segframe.inference.base import Inference
from segframe.inference.build import build_inference, pick_device
from segframe.inference.onnx_network import check_scores
from segframe.inference.open_network import OpenedNetwork, open_network
from segframe.inference.predict import choose_background, predict, read
from segframe.inference.prediction_files import Prediction
from segframe.inference.submission import Submission
from segframe.visualization.overlays import overlay

ImageSource = str | Path | NDArray[Any] | Image.Image | torch.Tensor
"""An image file's path, an array (H, W, C) or (H, W), uint8 or uint16 as the training images were, a PIL image, or a
tensor (C, H, W)."""


class Result:
    """The prediction for one image. A notebook shows its overlay."""

    classes: NDArray[np.uint8]
    """The class index of every pixel, (H, W)."""
    image: NDArray[Any]
    """The image, (H, W, C) in 0 ... 255, uint8 or float32."""
    names: tuple[str, ...]
    """The names of the classes."""
    palette: Palette
    """The colours (R, G, B) of the classes."""

    def __init__(
        self,
        prediction: Prediction,
        names: tuple[str, ...],
        palette: Palette,
        make_submission: Callable[[], Submission],
    ) -> None:
        self.classes, self.image, self._scores = prediction.classes, prediction.image, prediction.scores
        self.names, self.palette, self._make_submission = names, palette, make_submission

    def probabilities(self) -> NDArray[np.float32]:
        """Return the probability of every class at every pixel, (C, H, W).

        Computed at each call; sliding windows and test-time augmentation with mode=exact run the network again.
        """
        with torch.inference_mode():
            found: NDArray[np.float32] = self._scores.full()[0].softmax(0).cpu().numpy()
        return found

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """Return the image blended with the colours of its classes, except those named background.

        `alpha`: the colours' opacity, 0 ... 1.
        """
        check_range("alpha", alpha, 0, 1)
        background = choose_background("auto", self.names)
        return Image.fromarray(overlay(self.image, self.classes, self.palette, alpha, background))

    def submission(self) -> Image.Image:
        """Return the classes as the values that they have in the masks of the data that the network was trained on.

        This is what the data set's server expects, as the program predict writes it with submission=true: grey, or with
        VOC's palette. UserError if the data have no such values.
        """
        return self._make_submission().encode(self.classes)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.overlay().save(file, "PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        pixels = np.bincount(self.classes.ravel(), minlength=len(self.names))
        shares = [f"{self.names[k]} {pixels[k] / self.classes.size:.1%}" for k in np.argsort(-pixels) if pixels[k]]
        height, width = self.classes.shape
        return f"<Result: {height}x{width} pixels; {', '.join(shares)}>"


class Model:
    """A trained network on a device, made by `segframe.load`. Several threads may call it at once."""

    names: tuple[str, ...]
    """The names of the classes."""
    palette: Palette
    """The colours (R, G, B) of the classes."""
    device: torch.device
    inference: Inference
    """How images are run through the network: an object of segframe.inference, such as WholeImage or SlidingWindow."""

    def __init__(self, opened: OpenedNetwork, inference: Inference, trust: Collection[str] = ()) -> None:
        self.network, metadata, self.path = opened
        self._make_submission = cache(lambda: Submission(metadata, trust))
        self.device, self.inference = self.network.device, inference
        self.names, self.palette = metadata.classes, metadata.palette
        self._tf32 = torch.backends.cudnn.allow_tf32
        self._pixels = PixelFormat.of_checkpoint(self.network.channels, metadata.config)

    @overload
    def __call__(self, image: ImageSource) -> Result: ...

    @overload
    def __call__(self, image: list[Any]) -> list[Result]: ...

    def __call__(self, image: ImageSource | list[Any]) -> Result | list[Result]:
        """Return the prediction for an image, or those for the images of a list, which run one by one.

        The classes are those that the program predict writes, to the bit.
        """
        if isinstance(image, list):
            return [self(one) for one in image]
        torch.backends.cudnn.allow_tf32 = self._tf32  # of the whole process: another model may differ
        path = Path(image) if isinstance(image, str | Path) else None
        with translate_errors(TO_PREDICT, path):
            if path is not None:
                pixels = read(path, self._pixels)
            elif isinstance(image, np.ndarray | Image.Image | torch.Tensor):
                pixels = self._pixels.scaled(as_values(as_array(image), self._pixels))
            else:
                raise UserError(
                    "an image is a path, a NumPy array, a PIL image, a tensor (C, H, W) or a list of these, not a "
                    f"{type(image).__name__}"
                )
            prediction = predict(self.network, pixels, self.inference, None)
        return Result(prediction, self.names, self.palette, self._make_submission)

    def __repr__(self) -> str:
        return f"<Model: {self.path}, {len(self.names)} classes, on {self.device}, {self.inference}>"


def as_array(image: "NDArray[Any] | Image.Image | torch.Tensor") -> "NDArray[Any] | Image.Image":
    """Return a tensor (C, H, W), as torchvision reads images, as an array (H, W, C); other images as they are."""
    if not isinstance(image, torch.Tensor):
        return image
    if image.ndim != 3:
        raise UserError(
            f"the tensor has the shape {tuple(image.shape)}: give an image (C, H, W), or a batch as a list, list(batch)"
        )
    if image.is_floating_point():
        raise UserError(
            f"the tensor holds {image.dtype}: give the image's own values, uint8 (of 0 to 1: x.mul(255).round().byte())"
        )
    array: NDArray[Any] = image.permute(1, 2, 0).cpu().numpy()
    return array


def load(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: str | None = None,
    inference: str | Inference | None = None,
    output_stride: int | None = None,
    trust: Collection[str] = (),
) -> Model:
    """Return the network of a run's folder (its best checkpoint), a checkpoint, an exported .onnx file, or another
    project's known file.

    `device`: auto (the GPU if there is one, else the CPU), cpu, cuda, cuda:1, or torch's object. `precision`: None as
    in training; or 32-true, bf16-mixed, 16-mixed, 64-true. `inference`: None as in the run's validations; or an option
    (whole, sliding_window, tta, shift_and_stitch) with its default settings, or one of segframe.inference's objects.
    `output_stride`: 8 dilates the backbone of a network trained at 16. `trust`: the packages, modules or classes
    outside segframe that the checkpoint may name. UserError for anything that cannot be used.
    """
    chosen = choose_device(device)
    with translate_errors(TO_PREDICT):
        opened = open_network(
            source,
            chosen,
            required=str(device) != "auto",
            output_stride=output_stride,
            precision=precision,
            trust=trust,
        )
        way = choose_inference(inference, opened.metadata.config, trust)
        check_scores(opened.network, way, {})
        return Model(opened, way, trust)


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device of a name such as auto, cpu, cuda or cuda:1."""
    kind, colon, number = str(device).partition(":")
    chosen = pick_device(kind, "device")
    if not colon:
        return chosen
    count = torch.cuda.device_count() if chosen.type == "cuda" else 1
    if not number.isdigit() or int(number) >= count:
        raise UserError(f"device={device}: there is no such device; this machine has {count} of {kind}")
    return torch.device(chosen.type, int(number))


def choose_inference(
    inference: str | Inference | None, trained_with: Mapping[str, Any], trust: Collection[str]
) -> Inference:
    """Return an inference, or that of an option's name; None: that of the run's validations."""
    if isinstance(inference, Inference):
        return inference.with_training_defaults(trained_with)
    if inference is None:
        own = trained_with.get("inference")
        return build_inference(OmegaConf.create(own) if isinstance(own, dict) else None, trained_with, list(trust))
    known = schema.options("inference")
    if inference not in known:
        raise UserError(f"inference={inference}: there is no such option{did_you_mean(str(inference), known)}")
    files = (path for path in schema.yaml_files() if (path.parent.name, path.stem) == ("inference", inference))
    node = OmegaConf.load(next(files))
    assert isinstance(node, DictConfig)
    return build_inference(node, trained_with)
