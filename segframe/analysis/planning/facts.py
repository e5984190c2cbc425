"""Inputs of a plan's rules: measured facts of a data set, a machine and a network."""

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]
"""Height and width in pixels."""

WINDOW_SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Sizes of windows, as fractions of the image's sides, for which the frequency of classes is measured."""


class ClassFacts(NamedTuple):
    """Properties of a class in the training masks that were read."""

    name: str
    share: float
    """Fraction of the labelled pixels that belong to the class."""
    images: float
    """Share of the images that show it."""
    width: float
    """Lower quartile of the widths of objects in pixels, weighted by their area; 0 without objects.

    An object is a connected component, its width as in measure_data.find_objects.
    """
    in_window: tuple[float, ...]
    """Probability that a random window of an image shows it, for each of WINDOW_SHARES."""

    def seen(self, share: float) -> float:
        """Return the probability that a random window shows the class; `share`: of the image's sides."""
        xs = [log2(each) for each in reversed(WINDOW_SHARES)]
        return float(np.interp(log2(share), xs, self.in_window[::-1]))


class DataFacts(NamedTuple):
    """Properties of a data set."""

    train_images: int
    val_images: int
    examined: int
    """Number of training images that were read for these facts."""
    classes: tuple[ClassFacts, ...]
    void: float
    """Share of the pixels that are not labelled."""
    size: Size
    """Median height and median width of the training images."""
    smallest: Size
    largest: Size
    val_size: Size
    """Median of the validation images."""
    val_largest: Size
    channels: int
    max_value: int
    mean: tuple[float, ...]
    """Mean of each channel, in units of 0 ... 255."""
    std: tuple[float, ...]
    decoded_bytes: int
    """Bytes of all decoded images and masks, training and validation."""
    has_files: bool
    """False for generated images."""
    weights: str | None
    """data.weights of the data set: imagenet, or None for images that ImageNet's weights do not suit."""

    @property
    def largest_class(self) -> ClassFacts:
        """The class with most pixels."""
        return max(self.classes, key=lambda each: each.share)

    @property
    def present(self) -> Sequence[ClassFacts]:
        """The classes that occur, without the largest one."""
        return [each for each in self.classes if each.share > 0 and each is not self.largest_class]


class MachineFacts(NamedTuple):
    """Properties of this machine."""

    device: str
    is_gpu: bool
    cores: int
    loader_processes: int
    """Maximum number of loader processes, the default of data.num_workers."""
    free_bytes: int | None
    """Free memory of the host, in bytes; None where the system does not report it."""
    device_bytes: int | None
    """Free memory of the device that trains, in bytes; None where the system does not report it."""
    disk_bytes: int
    """Free space on the disk that holds the data set, in bytes."""
    load: float
    """Load average of the minute before the measurements, divided by the number of cores."""
    precisions: tuple[str, ...]
    """Those that the device computes natively, float32 last."""


class StepFacts(NamedTuple):
    """A measured training step."""

    size: Size
    """Height and width of the crops, in pixels."""
    batch: int
    precision: str
    seconds: float
    """Time of forward pass, backward pass and optimizer step, without data loading: the fastest measured step."""
    peak_bytes: int | None
    """Peak memory of a training step minus the memory in use before it, in bytes; None if the system reports none."""
    sample_seconds: float
    """Seconds for reading and augmenting one training image in one process."""
    read_seconds: float
    """The part of them for reading and decoding the files."""

    @property
    def pixels(self) -> int:
        """Number of pixels of the batch."""
        return self.batch * self.size[0] * self.size[1]


class ValidationFacts(NamedTuple):
    """A measured validation image of the median size."""

    seconds: float
