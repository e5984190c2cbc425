"""Images, masks and datasets on disk for the tests of this folder."""

import struct
import zlib

import numpy as np
import pytest
from conftest import composed
from PIL import Image
from scipy.io import savemat

from segframe.config.instantiate import instantiate
from segframe.data.label_map import voc_palette
from segframe.errors import UserError

SIZE = (12, 16)


def put_image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def put_mask(path, values=0, size=SIZE, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), size).copy())
    if palette:
        mask.putpalette(np.array(voc_palette(256), np.uint8).tobytes())
    mask.save(path)


def put_pair(root, name, part="", values=0):
    put_image(root / "images" / part / f"{name}.jpg")
    put_mask(root / "masks" / part / f"{name}.png", values)


def put_lines(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def png_bytes(width, height, bits, colour_type, pixels, palette=b""):
    """A PNG file with this header and compressed pixel data, whether they fit or not."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"PLTE", palette)] if palette else []), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def png_of_16_bits(values):
    """A PNG of several channels of 16 bits, which Pillow does not write."""
    height, width, channels = values.shape
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    return png_bytes(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], pixels)


def damaged_copies(content):
    """The content with a wrong byte, and cut off."""
    rng = np.random.default_rng(0)
    for _ in range(80):
        data = bytearray(content)
        data[rng.integers(len(data))] ^= 255
        yield data
        yield content[: rng.integers(len(content))]


def voc_tree(home):
    """VOC train has a, b; val has v; SBD train has v (a val image) and s; SBD val has t and b."""
    for name in "abvst":
        put_image(home / "JPEGImages" / f"{name}.jpg")
    for name in "abv":
        put_mask(home / "SegmentationClass" / f"{name}.png", 1, palette=True)
    put_lines(home / "ImageSets/Segmentation/train.txt", "a", "b")
    put_lines(home / "ImageSets/Segmentation/val.txt", "v")
    put_lines(home / "ImageSets/Segmentation/trainval.txt", "a", "b", "v")


def sbd_tree(folder):
    (folder / "cls").mkdir(parents=True)
    for name in "vstb":
        segmentation = np.full(SIZE, 7, np.uint8)
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": segmentation, "Boundaries": [0]}})
    put_lines(folder / "train.txt", "v", "s")
    put_lines(folder / "val.txt", "t", "b")


def names(dataset):
    return [sample.name for sample in dataset.samples]


def check_error(call, *parts):
    """The call raises a UserError whose message contains all parts."""
    with pytest.raises(UserError) as error:
        call()
    for part in parts:
        assert str(part) in str(error.value)


def make(name, root, *words):
    """Return a function of the split that opens data=name as a run does."""
    make_dataset = instantiate(composed(f"data={name}", *words).data.dataset, "data.dataset")
    return lambda split: make_dataset(root=root, split=split)
