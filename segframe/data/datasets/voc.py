"""PASCAL VOC 2012 segmentation (Everingham et al., 2012), with the extra masks of SBD (Hariharan et al., 2011)."""

import struct
import zlib
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from segframe.data.base import SegmentationDataset
from segframe.data.download import fetch_archive
from segframe.data.file_listing import Sample, check_file, listing, pair
from segframe.data.palettes import voc_palette
from segframe.data.split_lists import read_list
from segframe.errors import UserError

VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
VOC_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
SBD_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
SBD_MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"

MAT_BYTES = 1 << 20
"""Of a mask of SBD at most. Its images have 500x500 pixels at most, 0.3 MB before compression."""
MAT_UNFOLDED = 1 << 24
"""Of one of its variables at most, borders and all: what is compressed could unfold to a thousand times its size."""
_UINT8, _MATRIX, _COMPRESSED = 2, 14, 15
"""Types of data elements in MATLAB's format 5."""
_STRUCT_ARRAY, _UINT8_ARRAY = 2, 9
"""Classes of arrays in it."""

AUGMENTED = "trainaug"
SBD_TRAIN = "sbdtrain"
SEG11VALID = "seg11valid"
SEG11VALID_SOURCE = "put data/pascal/seg11valid.txt of the FCN release (fcn.berkeleyvision.org) there"
SBD_SOURCE = (
    f"the splits {AUGMENTED} and {SBD_TRAIN} need SBD: unpack {SBD_URL} in data.root (it makes "
    "benchmark_RELEASE/dataset), set data.download=true, or put SegmentationClassAug/*.png beside SegmentationClass"
)


class VOC(SegmentationDataset):
    """VOC 2012: 1,464 train and 1,449 val images, 21 classes.

    `root` holds VOCdevkit, or is VOCdevkit, or is VOC2012. The split `trainaug` is VOC train and all of SBD without
    VOC val, 10,582 images: SBD's own lists contain images of VOC val. FCN's published figures are of networks trained
    on `sbdtrain`, SBD's train list (8,498, some of VOC val among them), and evaluated on `seg11valid` (736, VOC 2011's
    val without those), a list that comes with the FCN release.
    """

    classes = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    palette = voc_palette(len(classes))
    splits = ("train", "val", "trainval", AUGMENTED, SBD_TRAIN, SEG11VALID)
    label_map = {"#e0e0c0": "ignore"}  # noqa: RUF012, where palettes were saved as RGB
    source = f"unpack {VOC_URL} in data.root (it makes VOCdevkit/VOC2012), or set data.download=true"

    @cached_property
    def home(self) -> Path:
        """The folder with JPEGImages, SegmentationClass and ImageSets."""
        for home in (self.root / "VOCdevkit" / "VOC2012", self.root / "VOC2012", self.root):
            if (home / "JPEGImages").is_dir():
                return home
        raise UserError(f"no VOC2012/JPEGImages under {self.root}: {self.source}")

    @cached_property
    def sbd(self) -> Path:
        """The folder with SBD's cls/*.mat, train.txt and val.txt."""
        for base in (self.root, self.home.parent, self.home.parent.parent):
            for inner in ("sbd", "benchmark_RELEASE/dataset", "sbd/benchmark_RELEASE/dataset", "dataset"):
                if (base / inner / "cls").is_dir():
                    return base / inner
        raise UserError(f"no cls/*.mat of SBD under {self.root}: {SBD_SOURCE}")

    def find(self) -> list[Sample]:
        """Return the split's samples; VOC's own mask goes before SBD's, which has no void border."""
        images = listing(self.home / "JPEGImages", (".jpg",), self.source)
        masks = listing(self.home / "SegmentationClass", (".png",), self.source)
        if self.split == SBD_TRAIN:
            masks = listing(self.sbd / "cls", (".mat",), SBD_SOURCE)
            return pair(read_list(self.sbd / "train.txt", SBD_SOURCE), images, masks, "SBD train")
        if self.split != AUGMENTED:
            return pair(self._names(self.split), images, masks, f"VOC {self.split}")
        folder = self.home / "SegmentationClassAug"
        if folder.is_dir():
            extra = listing(folder, (".png",), SBD_SOURCE)
            names = set(extra)
        else:
            extra = listing(self.sbd / "cls", (".mat",), SBD_SOURCE)
            names = {name for part in ("train", "val") for name in read_list(self.sbd / f"{part}.txt", SBD_SOURCE)}
        names = (names | set(self._names("train"))) - set(self._names("val"))
        return pair(sorted(names), images, extra | masks, f"VOC {AUGMENTED}")

    def _names(self, split: str) -> list[str]:
        source = SEG11VALID_SOURCE if split == SEG11VALID else self.source
        return read_list(self.home / "ImageSets" / "Segmentation" / f"{split}.txt", source)

    def load_mask(self, path: Path) -> np.ndarray:
        """Return the class indices of a palette PNG or of SBD's MATLAB file."""
        if path.suffix != ".mat":
            return super().load_mask(path)
        try:
            check_file(path, "mask of SBD", MAT_BYTES)
            return _read_sbd(path.read_bytes())
        except UserError:
            raise
        except (OSError, ValueError, struct.error, zlib.error) as error:
            raise UserError(f"cannot read {path}, is the file damaged? ({error})") from None

    @classmethod
    def download(cls, root: str | Path) -> None:
        """Fetch VOC 2012 (2 GB) and SBD (1.4 GB) and unpack them in root, each unless it is there."""
        root = Path(root).expanduser()
        fetch_archive(VOC_URL, VOC_MD5, root, "VOCdevkit/VOC2012/JPEGImages")
        fetch_archive(SBD_URL, SBD_MD5, root, "benchmark_RELEASE/dataset/cls")


def _read_sbd(data: bytes) -> np.ndarray:
    # GTcls.Segmentation, and nothing else of the file: SciPy would make every array that a header speaks of, of
    # whatever size, and raises errors of all kinds for damaged files.
    if data[124:128] != b"\0\1IM":
        raise ValueError("it is not in the format of MATLAB 5 to 7.2")
    for kind, content in _elements(memoryview(data)[128:]):
        if kind == _COMPRESSED:
            kind, content = next(_elements(_inflate(content)), (0, content))
        if kind == _MATRIX and _nth(content, 2) == (1, b"GTcls"):
            return _segmentation(content)
    raise ValueError("it has no GTcls")


def _segmentation(gt_cls: memoryview) -> np.ndarray:
    # The fields follow their names, all of which have as many bytes, filled up with zeros.
    name_size, names = int.from_bytes(_nth(gt_cls, 3)[1], "little"), _nth(gt_cls, 4)[1].tobytes()
    at = names.find(b"Segmentation\0")
    if _array_class(gt_cls) != _STRUCT_ARRAY or at < 0 or name_size == 0 or at % name_size:
        raise ValueError("its GTcls is no struct with a Segmentation")
    kind, array = _nth(gt_cls, 5 + at // name_size)
    size = _nth(array, 1)[1]
    if kind != _MATRIX or _array_class(array) != _UINT8_ARRAY or len(size) != 8:
        raise ValueError("its Segmentation is no matrix of uint8")
    height, width = struct.unpack("<2i", size)
    kind, values = _nth(array, 3)
    if kind != _UINT8 or min(height, width) < 1 or len(values) != height * width:
        raise ValueError(f"its Segmentation is of {height}x{width} pixels and has {len(values)} bytes")
    return np.frombuffer(values, np.uint8).reshape(height, width, order="F").copy()


def _array_class(array: memoryview) -> int:
    return int.from_bytes(_nth(array, 0)[1][:1], "little")


def _inflate(data: memoryview) -> memoryview:
    inflater = zlib.decompressobj()
    unfolded = inflater.decompress(data, MAT_UNFOLDED)
    if not inflater.eof:
        raise ValueError(f"it is cut off, or unfolds to more than {MAT_UNFOLDED:,} bytes")
    return memoryview(unfolded)


def _nth(array: memoryview, n: int) -> tuple[int, memoryview]:
    # Of an array's elements: 0 are its flags, 1 its dimensions, 2 its name, and its values or fields follow.
    return next(islice(_elements(array), n, None), (0, memoryview(b"")))


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    # Type and content of each: a content of 4 bytes at most may stand in the tag; others are filled up to 8 bytes.
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<2I", data, at)
        start = at + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        end = start + size
        if end > len(data) or (start == at + 4 and size > 4):
            raise ValueError("it is cut off")
        yield kind, data[start:end]
        at = end if kind == _COMPRESSED else end + -end % 8
