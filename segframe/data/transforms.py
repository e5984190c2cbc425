"""Augmentation: albumentations steps, seeded per sample, and a scale-and-crop that resizes only what it keeps."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np

from segframe import IGNORE_INDEX
from segframe.errors import UserError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it goes online while it is imported
import albumentations as A
from albumentations.core.type_definitions import Targets

IMAGENET_MEAN = (124, 116, 104)
"""Mean colour of ImageNet, RGB in 0..255: what padding looks like, near 0 once normalised."""

Step: TypeAlias = A.BasicTransform | A.BaseCompose


class Transform:
    """A list of albumentations steps applied to one image and its mask; an empty list changes nothing."""

    def __init__(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if not isinstance(step, Step):
                raise UserError(f"a transform is {step!r}: every entry must be an albumentations transform")
        self.compose = A.Compose(list(steps))
        self.steps = [inner for step in steps for inner in _walk(step)]
        for step in self.steps:
            # 0, the usual default, would make what a rotation uncovers a class; None leaves masks alone.
            if getattr(step, "fill_mask", None) is not None:
                step.fill_mask = IGNORE_INDEX

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image (H, W, 3) and mask (H, W), both uint8, as a function of the arguments alone."""
        # One seed for all, as Compose would set it, makes every step draw the same numbers: no flip without a jitter.
        for step, state in zip(self.steps, np.random.SeedSequence(seed).generate_state(len(self.steps)), strict=True):
            step.set_random_seed(int(state))
        result = self.compose(image=image, mask=mask)
        image, mask = result["image"], result["mask"]
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise UserError("the transforms turn images into floats or tensors: leave out Normalize and ToTensorV2")
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _walk(step: Step) -> Iterator[Step]:
    # Outer first: seeding a composition seeds what it holds.
    yield step
    if isinstance(step, A.BaseCompose):
        for inner in step.transforms:
            yield from _walk(inner)


class RandomScaleCrop(A.DualTransform):
    """Scale by a random factor and cut a random window of exactly `size`, an int or (height, width).

    Same distribution as resizing the whole image and cropping it uniformly, at the cost of the window. Where the scaled
    image is smaller than the window it is padded at the bottom and at the right: the image with `fill`, the mask with
    255. Scale (1, 1) is a plain random crop. `step`: scales are only `scale[0]`, `scale[0] + step` ...; null: any.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0),
        fill: Sequence[int] = IMAGENET_MEAN,
        p: float = 1.0,
        step: float | None = None,
    ) -> None:
        super().__init__(p=p)
        self.size = tuple(size) if isinstance(size, Sequence) else (size, size)
        self.scale = tuple(scale) if isinstance(scale, Sequence) else (scale,)
        self.fill = tuple(fill)
        self.step = step
        if len(self.size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.size):
            raise UserError(f"crop size is {size!r}: give one positive integer, or [height, width]")
        numbers = all(isinstance(factor, int | float) for factor in self.scale)
        if len(self.scale) != 2 or not numbers or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"crop scale is {scale}: give [smallest, largest] factor, both positive")
        if step is not None and step <= 0:
            raise UserError(f"crop scale's step is {step}: give a positive number, or null for any scale")

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the scaled image's size and the window's corner in it, in pixels of the scaled image."""
        height, width = params["shape"][:2]
        smallest, largest = self.scale
        if self.step is None:
            factor = self.py_random.uniform(smallest, largest)
        else:
            factor = smallest + self.step * self.py_random.randint(0, int((largest - smallest) / self.step + 1e-6))
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        corner = tuple(
            self.py_random.randint(0, max(0, side - kept)) for side, kept in zip(scaled, self.size, strict=True)
        )
        return {"scaled": scaled, "corner": corner}

    def apply(
        self, img: np.ndarray, *args: Any, scaled: tuple[int, int], corner: tuple[int, int], **params: Any
    ) -> np.ndarray:
        """Return the window of the bilinearly scaled image, (*size, 3)."""
        height, width = np.minimum(self.size, scaled).tolist()
        step_y, step_x = img.shape[0] / scaled[0], img.shape[1] / scaled[1]
        # Pixel centres are at half-integers: those of the window, in coordinates of the source.
        to_source = np.array(
            [
                [step_x, 0, (corner[1] + 0.5) * step_x - 0.5],
                [0, step_y, (corner[0] + 0.5) * step_y - 0.5],
            ]
        )
        out = np.empty((*self.size, img.shape[2]), img.dtype)
        out[:] = self.fill
        out[:height, :width] = cv2.warpAffine(
            img,
            to_source,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return out

    def apply_to_mask(
        self, mask: np.ndarray, *args: Any, scaled: tuple[int, int], corner: tuple[int, int], **params: Any
    ) -> np.ndarray:
        """Return the window of the mask scaled by nearest neighbour (exact centres), (*size)."""
        rows, cols = (
            (2 * (corner[axis] + np.arange(min(self.size[axis], scaled[axis]))) + 1) * side // (2 * scaled[axis])
            for axis, side in enumerate(mask.shape[:2])
        )
        out = np.full(self.size, IGNORE_INDEX, mask.dtype)
        out[: len(rows), : len(cols)] = mask[rows][:, cols]
        return out
