"""Sample pipelines of other projects, with the same augmentations: scale 0.5 to 2, crop, flip, colour, normalization.

A pipeline maps the paths of a JPEG and of a mask PNG to a float image (3, H, W) and an int64 mask (H, W).
"""

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.peers import MEAN, STD
from segframe import IGNORE_INDEX

Pipeline = Callable[[Path, Path], tuple[Tensor, Tensor]]


def albumentations_pipeline(crop: int) -> Pipeline:
    """albumentations as in its documentation on segmentation: the whole image resized, then cropped."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    compose = A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1),
            A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE_INDEX),
            A.RandomCrop(crop, crop),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, p=0.5),
            A.Normalize(),
            ToTensorV2(),
        ]
    )

    def load(image: Path, mask: Path) -> tuple[Tensor, Tensor]:
        pixels = cv2.imread(str(image))
        assert pixels is not None
        result = compose(image=cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), mask=np.array(Image.open(mask)))
        return result["image"], result["mask"].long()

    return load


def mmseg_pipeline(crop: int) -> Pipeline:
    """mmseg 1.2's transforms (RandomResize, RandomCrop with cat_max_ratio, PhotoMetricDistortion) and preprocessor."""
    rng = random.Random(0)
    mean, std = (255 * torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))

    def window(mask: np.ndarray) -> tuple[slice, slice]:
        top, left = (rng.randint(0, max(side - crop, 0)) for side in mask.shape)
        return slice(top, top + crop), slice(left, left + crop)

    def convert(x: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(x.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    def contrast(x: np.ndarray) -> np.ndarray:
        return convert(x, alpha=rng.uniform(0.5, 1.5)) if rng.randint(0, 1) else x

    def distort(x: np.ndarray) -> np.ndarray:
        if rng.randint(0, 1):
            x = convert(x, beta=rng.uniform(-32, 32))
        first = rng.randint(0, 1)
        x = contrast(x) if first else x
        if rng.randint(0, 1):
            hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV)
            hsv[..., 1] = convert(hsv[..., 1], alpha=rng.uniform(0.5, 1.5))
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if rng.randint(0, 1):
            hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + rng.randint(-18, 17)) % 180
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return x if first else contrast(x)

    def load(image: Path, mask: Path) -> tuple[Tensor, Tensor]:
        pixels = cv2.imdecode(np.frombuffer(image.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        labels = np.array(Image.open(mask))
        factor = rng.uniform(0.5, 2.0)
        size = int(pixels.shape[1] * factor + 0.5), int(pixels.shape[0] * factor + 0.5)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        box = window(labels)
        for _ in range(10):
            found, counts = np.unique(labels[box], return_counts=True)
            counts = counts[found != IGNORE_INDEX]
            if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                break
            box = window(labels)
        pixels, labels = pixels[box], labels[box]
        if rng.random() < 0.5:
            pixels, labels = np.flip(pixels, 1), np.flip(labels, 1)
        pixels = distort(np.ascontiguousarray(pixels))
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        y = torch.from_numpy(np.ascontiguousarray(labels).astype(np.int64))
        x = (x[[2, 1, 0]].float() - mean) / std
        pad = (0, crop - x.shape[2], 0, crop - x.shape[1])
        return torch.nn.functional.pad(x, pad), torch.nn.functional.pad(y, pad, value=IGNORE_INDEX)

    return load


def torchvision_pipeline(crop: int, short_side: int) -> Pipeline:
    """torchvision's reference segmentation recipe, transforms v2 on PIL images, and ColorJitter."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    fill = {tv_tensors.Mask: IGNORE_INDEX, "others": 0}
    compose = v2.Compose(
        [
            v2.RandomResize(short_side // 2, 2 * short_side),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.05)], p=0.5),
            v2.ToImage(),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
            v2.ToPureTensor(),
        ]
    )

    def load(image: Path, mask: Path) -> tuple[Tensor, Tensor]:
        labels = tv_tensors.Mask(torch.from_numpy(np.array(Image.open(mask))))
        x, y = compose(Image.open(image).convert("RGB"), labels)
        return x, y

    return load
