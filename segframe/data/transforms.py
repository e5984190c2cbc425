"""Augmentation: albumentations transforms, seeded per sample; random scale and crop that resizes only the window."""

import os
import random
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np

from segframe import IGNORE_INDEX
from segframe.errors import UserError, check_range, height_width

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it goes online on import
import albumentations as A
from albumentations.core.type_definitions import Targets

IMAGENET_MEAN = (124, 116, 104)
"""Mean colour of ImageNet, RGB in 0..255: the colour of padding, near 0 after normalisation."""

REDRAWS = 10
"""Maximum number of redraws of a crop that exceeds max_class_share."""

Step: TypeAlias = A.BasicTransform | A.BaseCompose


class Transform:
    """A list of albumentations steps applied to one image and its mask; an empty list changes nothing."""

    def __init__(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if not isinstance(step, Step):
                raise UserError(f"a transform is {step!r}: every entry must be an albumentations transform")
        # Compose prepares nested ones; __call__ does its work for images and masks.
        self.compose = A.Compose(list(steps))
        for inner in _walk(self.compose):
            # The usual default, 0, would label the corners of a rotated image as class 0; None does not change masks.
            if getattr(inner, "fill_mask", None) is not None:
                inner.fill_mask = IGNORE_INDEX
            if getattr(inner, "mask_interpolation", None) not in (None, cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT):
                name = type(inner).__name__
                raise UserError(
                    f"transforms: mask_interpolation={inner.mask_interpolation} of {name}: a mean of two class indices "
                    "is another class; leave it out, for nearest"
                )
        # Other steps than the crop may write into their input.
        self.may_write = not steps or not isinstance(steps[0], RandomScaleCrop) or steps[0].p < 1

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return new image (H, W, C) of the same type and mask (H, W), as a function of the arguments alone."""
        if self.may_write and not (image.flags.writeable and mask.flags.writeable):
            image, mask = image.copy(), mask.copy()
        # One stream for all steps: with a seed per step all would draw the same numbers.
        stream = random.Random(seed)
        self.compose.set_random_state(np.random.default_rng(seed), stream)
        stream.random()  # as Compose draws whether it applies any step
        result: dict[str, Any] = {"image": image, "mask": mask}
        try:
            for step in self.compose.transforms:
                result = step(**result)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            places = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
            step = next((place for place in reversed(places) if isinstance(place, A.BasicTransform)), None)
            if step is None or type(step).__module__.startswith("segframe."):
                raise  # a bug
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise UserError(f"transforms: {type(step).__name__} fails ({reason})") from error
        before, image, mask = image, result["image"], result["mask"]
        if not isinstance(image, np.ndarray) or image.dtype != before.dtype:
            raise UserError("the transforms turn images into floats or tensors: leave out Normalize and ToTensorV2")
        if image.shape[2:] != before.shape[2:]:
            shape = f"{before.shape[2]} channels into an image of shape {image.shape}"
            raise UserError(f"the transforms turn {shape}: leave out what changes the number of channels")
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _walk(step: Step) -> Iterator[Step]:
    yield step
    if isinstance(step, A.BaseCompose):
        for inner in step.transforms:
            yield from _walk(inner)


class Span(NamedTuple):
    """Source pixels [start, stop) of a crop along one axis, whose cv2.resize contains the window exactly."""

    side: int
    """Size of the source image."""
    scaled: int
    """Size of the scaled image."""
    start: int
    stop: int
    skipped: int
    """Scaled pixels between `start` and the window."""
    kept: int
    """Size of the window."""

    def nearest(self) -> np.ndarray:
        """Return the source pixel, counted from `start`, at the centre of each pixel of the window."""
        first, step = (2 * self.skipped + 1) * self.side, 2 * self.side
        return np.arange(first, first + self.kept * step, step) // (2 * self.scaled)


class RandomScaleCrop(A.DualTransform):
    """Scale by a random factor and crop a random window of exactly `size`, an int or (height, width).

    Same distribution as resizing the whole image and cropping it uniformly, but only the window is resized; its corner
    is moved up and left, by less than a source pixel, to where cv2.resize of a part of the image can start. (If a
    factor near 1 does not change the size of the part in pixels, OpenCV copies it: off by half a pixel at most.) A
    scaled image smaller than the window is padded at the bottom and right: the mask with 255, the image with `fill`, a
    number per channel; by default IMAGENET_MEAN for RGB of 8 bits, for others the image's mean.
    Scale (1, 1) is a plain random crop. `step`: scales are only `scale[0]`, `scale[0] + step` ...; null: any.
    `max_class_share`: a window is drawn again, at most REDRAWS times, while one class covers more than this share of
    its labelled pixels, or none is labelled (mmsegmentation's cat_max_ratio); null: never.
    `rare_class_probability`: that of a window whose centre is, as far as the image's borders allow, a random pixel of
    a random class of the image, of which each is drawn in inverse proportion to its number of pixels.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0),
        fill: Sequence[int] | None = None,
        p: float = 1.0,
        step: float | None = None,
        max_class_share: float | None = None,
        rare_class_probability: float = 0.0,
    ) -> None:
        super().__init__(p=p)
        self.size = height_width("data.crop_size", size)
        self.scale = tuple(scale) if isinstance(scale, Sequence) else (scale,)
        self.fill = fill
        self.step = step
        self.max_class_share = max_class_share
        self.rare_class_probability = rare_class_probability
        if max_class_share is not None:
            check_range("transforms.max_class_share", max_class_share, 0, 1)
        check_range("transforms.rare_class_probability", rare_class_probability, 0, 1)
        numbers = all(isinstance(factor, int | float) for factor in self.scale)
        if len(self.scale) != 2 or not numbers or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"crop scale is {scale}: give [smallest, largest] factor, both positive")
        if step is not None and step <= 0:
            raise UserError(f"crop scale's step is {step}: give a positive number, or null for any scale")

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the size of the scaled image and the corner of the window, again where one class covers too much."""
        height, width = params["shape"][:2]
        smallest, largest = self.scale
        if self.step is None:
            factor = self.py_random.uniform(smallest, largest)
        else:
            factor = smallest + self.step * self.py_random.randint(0, int((largest - smallest) / self.step + 1e-6))
        sides = [(side, max(1, round(side * factor))) for side in (height, width)]
        mask = data.get("mask")
        window = None
        for _ in range(1 + REDRAWS):
            centre = (None, None) if mask is None else self._rare_pixel(mask) or (None, None)
            rows, cols = (self._span(*side, size, at) for side, size, at in zip(sides, self.size, centre, strict=True))
            spans = rows, cols
            if self.max_class_share is None or mask is None:
                break
            window = self.apply_to_mask(mask, spans=spans)
            counts = class_counts(window)
            if counts.sum() > 0 and counts.max() <= self.max_class_share * counts.sum():
                break
        return {"spans": spans, "window": window}

    def _rare_pixel(self, mask: np.ndarray) -> tuple[int, int] | None:
        """Draw whether a window is placed by a class, and the pixel that it is placed by."""
        if not self.rare_class_probability or self.py_random.random() >= self.rare_class_probability:
            return None
        counts = class_counts(mask)
        present = np.flatnonzero(counts).tolist()
        if not present:
            return None
        (drawn,) = self.py_random.choices(present, (1 / counts[present]).tolist())
        return divmod(int(self.py_random.choice(np.flatnonzero(mask == drawn))), mask.shape[1])

    def _span(self, side: int, scaled: int, size: int, centre: int | None) -> Span:
        kept = min(size, scaled)
        if centre is None:
            corner = self.py_random.randint(0, scaled - kept)
        else:
            corner = min(max(0, (2 * centre + 1) * scaled // (2 * side) - kept // 2), scaled - kept)
        # Near its border a resized part differs from the resized image, except at the border of the image.
        border = max(0, -((side - scaled) // (2 * side)))
        start = max(0, (corner - border) * side // scaled)
        skipped = border if start else corner
        stop = min(side, start - (-(skipped + kept) * side // scaled) + 1)
        return Span(side, scaled, start, stop, skipped, kept)

    def apply(self, img: np.ndarray, *args: Any, spans: tuple[Span, Span], **params: Any) -> np.ndarray:
        """Return the window of the bilinearly scaled image, (*size, C)."""
        rows, cols = spans
        part = cv2.resize(
            img[rows.start : rows.stop, cols.start : cols.stop],
            None,
            fx=cols.scaled / cols.side,
            fy=rows.scaled / rows.side,
            interpolation=cv2.INTER_LINEAR,
        )
        part = part[rows.skipped : rows.skipped + rows.kept, cols.skipped : cols.skipped + cols.kept]
        if part.ndim == 2:  # OpenCV drops a single channel
            part = part[..., None]
        if part.shape[:2] == self.size:
            return part
        fill = self.fill
        if fill is None:
            is_rgb = img.shape[2] == 3 and img.dtype == np.uint8
            fill = IMAGENET_MEAN if is_rgb else np.rint(img.mean((0, 1))).tolist()
        if len(fill) != img.shape[2]:
            raise UserError(f"fill={list(fill)} of RandomScaleCrop: the images have {img.shape[2]} channels")
        # OpenCV takes four channels at most.
        padded = np.empty((*self.size, img.shape[2]), img.dtype)
        row = np.empty_like(padded[0])
        row[:] = fill  # copied row by row; pixel by pixel takes 25 times as long
        padded[: rows.kept, : cols.kept] = part
        padded[: rows.kept, cols.kept :] = row[cols.kept :]
        padded[rows.kept :] = row
        return padded

    def apply_to_mask(
        self, mask: np.ndarray, *args: Any, spans: tuple[Span, Span], window: np.ndarray | None = None, **params: Any
    ) -> np.ndarray:
        """Return the window of the mask scaled by nearest neighbour (exact centres), (*size), if there is none yet."""
        if window is not None:
            return window
        rows, cols = spans
        part = mask[rows.start : rows.stop, cols.start : cols.stop]
        # Selecting columns takes four times as long as selecting rows: transpose and select rows.
        if rows.scaled < rows.side:  # select rows first if that reduces the work
            part = part.take(rows.nearest(), axis=0)
        part = cv2.transpose(cv2.transpose(part).take(cols.nearest(), axis=0))
        if rows.scaled >= rows.side:
            part = part.take(rows.nearest(), axis=0)
        bottom, right = self.size[0] - rows.kept, self.size[1] - cols.kept
        if not bottom and not right:
            return part
        return cv2.copyMakeBorder(part, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(IGNORE_INDEX,))


def class_counts(mask: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each class 0 ... 254 of a mask of uint8, as float32."""
    # np.bincount takes 70 times as long.
    return cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()[:IGNORE_INDEX]
