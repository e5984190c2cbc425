"""Synthetic photographs, masks and score maps, generated from a seed, in the datasets' sizes and layouts."""

import os
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.data.label_map import voc_palette

JPEG_QUALITY = 95
CAMVID_SIZE = (360, 480)


def make_mask(rng: np.random.Generator, height: int, width: int, num_classes: int, regions: int = 6) -> np.ndarray:
    """Blobs of some of the classes, uint8 (H, W), with a narrow void border between them."""
    classes = rng.choice(num_classes, regions, replace=regions > num_classes)
    scores = cv2.resize(rng.standard_normal((5, 7, regions)).astype(np.float32), (width, height))
    mask = classes[scores.argmax(2)].astype(np.uint8)
    edges = cv2.dilate(mask, np.ones((3, 3), np.uint8)) != cv2.erode(mask, np.ones((3, 3), np.uint8))
    mask[edges] = IGNORE_INDEX
    return mask


def make_photo(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """An image, uint8 (H, W, 3): one colour per class, and noise with a spectrum like that of photographs."""
    height, width = mask.shape
    photo = rng.uniform(40, 215, (256, 3)).astype(np.float32)[mask]
    for octave in range(6):
        noise = rng.standard_normal((max(1, height >> octave), max(1, width >> octave), 3)).astype(np.float32)
        photo += (4.0 + 2.0 * octave) * cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(photo, 0, 255).astype(np.uint8)


def camvid_folders(source: Path, split: str) -> tuple[Path, Path]:
    """The folders of a split's images and masks in CamVid, in either of its layouts."""
    if (source / "images").is_dir():
        return source / "images" / split, source / "masks" / split
    return source / split, source / f"{split}annot"


def files_in(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def write_pair(
    image: Path,
    mask: Path,
    size: tuple[int, int],
    num_classes: int,
    seed: int,
    camvid: Path | None = None,
    palette: bool = True,
) -> None:
    """Write one JPEG, of CamVid's photograph number `seed` if there is CamVid, else generated, and its mask as PNG.

    `palette`: with VOC's; else grey.
    """
    rng = np.random.default_rng(seed)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    indices = make_mask(rng, *size, num_classes)
    if camvid is None:
        photo = Image.fromarray(make_photo(rng, indices))
    else:
        photographs = files_in(camvid_folders(camvid, "train")[0])
        photo = Image.open(photographs[seed % len(photographs)]).convert("RGB")
        photo = photo.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    photo.save(image, quality=JPEG_QUALITY)
    picture = Image.fromarray(indices)
    if palette:
        picture.putpalette(np.array(voc_palette(256), np.uint8).tobytes())
    picture.save(mask)


def voc_tree(root: Path, count: int, camvid: Path | None = None) -> Path:
    """Write `count` images of 500x375 and 21 classes in VOC 2012's layout; `train` and `val` are the same."""
    home = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{k:06d}" for k in range(count)]
    for k, name in enumerate(names):
        write_pair(home / f"JPEGImages/{name}.jpg", home / f"SegmentationClass/{name}.png", (375, 500), 21, k, camvid)
    for split in ("train", "val"):
        path = home / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")
    return root


def folder_tree(
    root: Path, counts: dict[str, int], size: tuple[int, int], num_classes: int, camvid: Path | None = None
) -> Path:
    """Write images/<split> and grey masks/<split>, the layout of `data=folder` and `data=camvid`."""
    seed = 0
    for split, count in counts.items():
        for k in range(count):
            seed += 1
            name = f"{split}_{k:04d}"
            image, mask = root / f"images/{split}/{name}.jpg", root / f"masks/{split}/{name}.png"
            write_pair(image, mask, size, num_classes, seed, camvid, palette=False)
    return root


def camvid_tree(root: Path, source: Path | None, counts: dict[str, int]) -> Path:
    """Link the first images of CamVid's splits in `source`; without it, generate images of that size."""
    if source is None:
        return folder_tree(root, counts, CAMVID_SIZE, 11)
    for split, count in counts.items():
        for kind, folder in zip(("images", "masks"), camvid_folders(source, split), strict=True):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
            for path in files_in(folder)[:count]:
                os.symlink(path.resolve(), root / kind / split / path.name)
    return root


def score_maps(num_classes: int, batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Coarse logits (N, C, h, w) like a trained network's: blobs of classes with soft edges and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    regions = min(num_classes, 8)
    shape = torch.randn(batch, regions, 6, 8, generator=generator)
    shape = F.interpolate(shape, size, mode="bicubic") + 0.05 * torch.randn(batch, regions, *size, generator=generator)
    classes = torch.stack([torch.randperm(num_classes, generator=generator)[:regions] for _ in range(batch)])
    labels = classes.gather(1, shape.argmax(1).flatten(1)).view(batch, *size)
    scores = torch.zeros(batch, num_classes, *size).scatter_(1, labels[:, None], 8.0)
    scores = F.avg_pool2d(scores, 3, stride=1, padding=1, count_include_pad=False)
    return scores + 0.3 * torch.randn(scores.shape, generator=generator)
