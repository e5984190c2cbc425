"""PASCAL VOC 2012 segmentation (Everingham et al., 2012), with the extra masks of SBD (Hariharan et al., 2011)."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from segframe.data.base import SegmentationDataset
from segframe.data.download import fetch_archive
from segframe.data.file_listing import Sample, check_file, list_files, pair
from segframe.data.label_map import voc_palette
from segframe.data.split_lists import read_list
from segframe.errors import UserError

VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
VOC_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
SBD_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
SBD_MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"

MAX_MASK_BYTES = 1 << 20
"""Maximum size of an SBD mask file; the images have at most 500x500 pixels, 0.3 MB uncompressed."""

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

    `root` contains VOCdevkit, or is VOCdevkit or VOC2012. The split `trainaug` is VOC train and all of SBD without VOC
    val (10,582 images): SBD's own lists contain images of VOC val. FCN's published networks are trained on `sbdtrain`,
    SBD's train list (8,498 images, including some of VOC val), and evaluated on `seg11valid` (736 images: VOC 2011's
    val without those), a list in the FCN release.
    """

    classes = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    palette = voc_palette(len(classes))
    splits = ("train", "val", "trainval", AUGMENTED, SBD_TRAIN, SEG11VALID)
    label_map = {"#e0e0c0": "ignore"}  # noqa: RUF012 - void, if masks were saved as RGB
    source = f"unpack {VOC_URL} in data.root (it makes VOCdevkit/VOC2012), or set data.download=true"

    @cached_property
    def voc_root(self) -> Path:
        """The folder with JPEGImages, SegmentationClass and ImageSets."""
        for folder in (self.root / "VOCdevkit" / "VOC2012", self.root / "VOC2012", self.root):
            if (folder / "JPEGImages").is_dir():
                return folder
        raise UserError(f"no VOC2012/JPEGImages under {self.root}: {self.source}")

    @cached_property
    def sbd(self) -> Path:
        """The folder with SBD's cls/*.mat, train.txt and val.txt."""
        for base in (self.root, self.voc_root.parent, self.voc_root.parent.parent):
            for inner in ("sbd", "benchmark_RELEASE/dataset", "sbd/benchmark_RELEASE/dataset", "dataset"):
                if (base / inner / "cls").is_dir():
                    return base / inner
        raise UserError(f"no cls/*.mat of SBD under {self.root}: {SBD_SOURCE}")

    def find(self) -> list[Sample]:
        """Return the samples of the split; VOC's masks are preferred to SBD's, which have no void border."""
        images = list_files(self.voc_root / "JPEGImages", (".jpg",), self.source)
        masks = list_files(self.voc_root / "SegmentationClass", (".png",), self.source)
        if self.split == SBD_TRAIN:
            masks = list_files(self.sbd / "cls", (".mat",), SBD_SOURCE)
            return pair(read_list(self.sbd / "train.txt", SBD_SOURCE), images, masks, "SBD train")
        if self.split != AUGMENTED:
            return pair(self._names(self.split), images, masks, f"VOC {self.split}")
        folder = self.voc_root / "SegmentationClassAug"
        if folder.is_dir():
            extra = list_files(folder, (".png",), SBD_SOURCE)
            names = set(extra)
        else:
            extra = list_files(self.sbd / "cls", (".mat",), SBD_SOURCE)
            names = {name for part in ("train", "val") for name in read_list(self.sbd / f"{part}.txt", SBD_SOURCE)}
        names = (names | set(self._names("train"))) - set(self._names("val"))
        return pair(sorted(names), images, extra | masks, f"VOC {AUGMENTED}")

    def _names(self, split: str) -> list[str]:
        source = SEG11VALID_SOURCE if split == SEG11VALID else self.source
        return read_list(self.voc_root / "ImageSets" / "Segmentation" / f"{split}.txt", source)

    def load_mask(self, path: Path) -> np.ndarray:
        """Return the class indices of a palette PNG or of SBD's MATLAB file."""
        if path.suffix != ".mat":
            return super().load_mask(path)
        try:
            check_file(path, "SBD mask", MAX_MASK_BYTES)
            # A struct of Segmentation, Boundaries and CategoriesPresent.
            mask = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
            if mask.dtype != np.uint8 or mask.ndim != 2 or mask.size == 0:
                raise ValueError(f"its Segmentation is {mask.dtype} of shape {mask.shape}, expected a matrix of uint8")
            return np.ascontiguousarray(mask)
        except UserError:
            raise
        except Exception as error:  # loadmat raises errors of many types for damaged files
            raise UserError(f"cannot read {path}, is the file damaged? ({error})") from None

    @classmethod
    def looks_like(cls, root: Path) -> bool:
        """Whether there are VOC's list of training images, with names as 2007_000032, and its masks."""
        folders = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
        lists = [folder / "ImageSets" / "Segmentation" / "train.txt" for folder in folders]
        return any(
            path.is_file()
            and (path.parents[2] / "SegmentationClass").is_dir()
            and re.match(r"\d{4}_\d{6}\s", path.read_text(errors="replace")[:100]) is not None
            for path in lists
        )

    @classmethod
    def download(cls, root: str | Path) -> None:
        """Fetch VOC 2012 (2 GB) and SBD (1.4 GB) and unpack them in root, each unless it exists."""
        root = Path(root).expanduser()
        fetch_archive(VOC_URL, VOC_MD5, root, "VOCdevkit/VOC2012/JPEGImages")
        fetch_archive(SBD_URL, SBD_MD5, root, "benchmark_RELEASE/dataset/cls")
