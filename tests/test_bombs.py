"""Files that ask for more memory than they are worth: refused by their headers, whoever reads them."""

import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from test_data import complaint, names
from test_voc import sbd_tree, voc_tree

from segframe.data.masks import MAX_PIXELS, read_header, read_image, read_raw, stored_area
from segframe.data.voc import VOC


def png(width, height, pixels, colour=0):
    """A PNG whose header says one thing and whose zlib stream holds another."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def patched(tmp_path, suffix, *changes):
    """A small picture of that kind whose header claims other numbers."""
    path = tmp_path / f"bomb{suffix}"
    Image.new("L", (31, 33)).save(path)
    data = path.read_bytes()
    for old, new in changes:
        assert old in data
        data = data.replace(old, new, 1)
    path.write_bytes(data)
    return path


def refused(path, *parts):
    """By all that read it, at once, and without memory."""
    for read in (read_image, read_raw, read_header, stored_area):
        tracemalloc.start()
        start = time.perf_counter()
        complaint(lambda read=read: read(path), path, f"{MAX_PIXELS:,}", "tiles", *parts)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("colour", [0, 2, 3])
def test_a_png_with_a_huge_header(tmp_path, colour):
    (tmp_path / "b.png").write_bytes(png(100_000, 90_000, zlib.compress(bytes(1 << 20)), colour))
    refused(tmp_path / "b.png", "100000x90000")


def test_a_jpeg_with_a_huge_header(tmp_path):
    bomb = patched(tmp_path, ".jpg", (struct.pack(">2H", 33, 31), struct.pack(">2H", 65_000, 64_000)))
    refused(bomb, "64000x65000")


def test_a_tiff_with_a_huge_header(tmp_path):
    tags = ((256, 31, 65_535), (257, 33, 65_000))  # ImageWidth and ImageLength, one LONG each
    changes = [[struct.pack("<2H2I", tag, 4, 1, value) for value in values] for tag, *values in tags]
    refused(patched(tmp_path, ".tif", *changes), "65535x65000")


def test_a_gif_with_a_huge_header(tmp_path):
    refused(patched(tmp_path, ".gif", (struct.pack("<2H", 31, 33), struct.pack("<2H", 65_000, 64_000))), "65000x64000")


def test_a_png_that_inflates_to_more_than_its_header_says(tmp_path):
    (tmp_path / "b.png").write_bytes(png(20, 10, zlib.compress(bytes(1 << 28))))
    tracemalloc.start()
    try:
        assert read_raw(tmp_path / "b.png").shape == (10, 20)  # as Pillow does, which stops there
        # The quarter of a megabyte that the file itself has, and nothing of what it would become.
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_png_that_inflates_to_less_than_its_header_says(tmp_path):
    (tmp_path / "b.png").write_bytes(png(2000, 1000, zlib.compress(bytes(1000))))
    complaint(lambda: read_raw(tmp_path / "b.png"), tmp_path / "b.png", "damaged")


def test_large_pictures_come_without_a_warning(tmp_path):
    """Pillow itself warns from half of the limit on."""
    (tmp_path / "l.png").write_bytes(png(100_000, 1_000, zlib.compress(bytes(10))))
    assert stored_area(tmp_path / "l.png") == 100_000_000
    assert read_header(tmp_path / "l.png") == ("PNG", "L", 1_000, 100_000, 1, b"")
    complaint(lambda: read_raw(tmp_path / "l.png"), "damaged")


def test_sbds_masks_are_small(tmp_path):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    huge = {"GTcls": {"Segmentation": np.random.default_rng(0).integers(0, 255, (1200, 1000), np.uint8)}}
    savemat(tmp_path / "sbd/cls/s.mat", huge, do_compression=True)
    dataset = VOC(tmp_path, "trainaug")
    complaint(lambda: dataset[names(dataset).index("s")], "s.mat", "no mask of SBD")
