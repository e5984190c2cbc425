"""Files that ask for more memory than they are worth: refused by their headers, whoever reads them."""

import random
import struct
import time
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from test_data import complaint, names
from test_voc import sbd_tree, voc_tree

from segframe.data.datasets.voc import VOC
from segframe.data.image_io import MAX_PIXELS, _jpeg_size, read_header, read_image, read_raw, stored_area

Image.init()  # Pillow's readers take memory too, once


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


@pytest.mark.parametrize("marker", [0x01, 0xD0, 0xD7])
def test_a_jpeg_with_a_false_header_inside_a_segment(tmp_path, marker):
    """Who takes the segment's marker for the length of a marker without one lands in the segment's middle."""
    bomb = patched(tmp_path, ".jpg", (struct.pack(">2H", 33, 31), struct.pack(">2H", 65_000, 64_000)))
    data = bomb.read_bytes()
    segment = bytearray(b"\xff\xe0\xff\xff" + bytes(0xFFFD))
    segment[0xFFE0:0xFFE9] = b"\xff\xc0\0\x0b\x08" + struct.pack(">2H", 33, 31)
    bomb.write_bytes(data[:2] + bytes((0xFF, marker)) + segment + data[2:])
    for read in (read_image, read_raw, read_header, stored_area):
        complaint(lambda read=read: read(bomb), bomb)
    with pytest.raises(ValueError):  # without which the decoder would have found the true one
        _jpeg_size(memoryview(bomb.read_bytes()))


@pytest.mark.parametrize("progressive", [False, True])
def test_what_is_found_in_a_jpegs_header_is_what_is_decoded(tmp_path, progressive):
    """Whatever stands between its segments, and however long these say that they are."""
    Image.new("RGB", (31, 33)).save(tmp_path / "i.jpg", progressive=progressive)
    data, rng, sizes = (tmp_path / "i.jpg").read_bytes(), random.Random(0), []
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    other = data[frame : frame + 5] + struct.pack(">2H", 9, 7) + data[frame + 9 : frame + 19]
    starts = [2, data.index(b"\xff\xdb"), frame, frame + 19]
    for _ in range(2000):
        marker, length = bytes((0xFF, rng.randrange(256))), struct.pack(">H", rng.choice((0, 1, 2, 4, 19, 21, 23)))
        parts = rng.choices((marker, other, b"\xff\xfe" + length, b"\xff\xe3" + length), k=rng.randint(1, 4))
        at = rng.choice(starts)
        odd = data[:at] + b"".join(parts) + data[at:]
        with suppress(ValueError, struct.error, RuntimeError):
            sizes.append(_jpeg_size(memoryview(odd)))
            decoded = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(odd), dtype=torch.uint8), 0, True)
            assert decoded.shape[1:] == sizes[-1]
    assert {(33, 31), (9, 7)} <= {*sizes}


def test_formats_that_no_suffix_stands_for(tmp_path):
    """An icon decodes what it holds as it is opened, a PostScript file runs a program."""
    inner = png(16, 16, zlib.compress(bytes(17 * 16)))
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    for name, content in (("icon.png", icon), ("icon.jpg", icon), ("script.png", postscript)):
        (tmp_path / name).write_bytes(content)
        for read in (read_image, read_raw, read_header, stored_area):
            complaint(lambda read=read, name=name: read(tmp_path / name), tmp_path / name, "cannot identify")


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


def element(kind, content):
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def array(kind, height, width, *contents, name=b""):
    """Of MATLAB's format 5."""
    header = element(6, struct.pack("<2I", kind, 0)) + element(5, struct.pack("<2i", height, width)) + element(1, name)
    return element(14, header + b"".join(contents))


def sbd_mask(segmentation, *more):
    names = [name.ljust(32, b"\0") for name in (b"Boundaries", b"Segmentation")]
    fields = element(5, struct.pack("<i", 32)), element(1, b"".join(names)), array(1, 20_000, 20_000), segmentation
    return b"".join((*more, array(2, 1, 1, *fields, name=b"GTcls")))


def test_arrays_of_a_matlab_file_that_are_larger_than_the_file(tmp_path):
    """SciPy takes 8 bytes for each cell that a header speaks of."""
    start, path = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM", tmp_path / "m.mat"
    good, endless = array(9, 2, 3, element(2, bytes(range(6)))), array(9, 20_000, 20_000, element(2, bytes(6)))
    nest = array(1, 1, 1)
    for _ in range(1000):
        nest = array(1, 1, 1, nest)
    unfolding = element(15, zlib.compress(sbd_mask(good, bytes(1 << 28))))
    tracemalloc.start()
    try:
        path.write_bytes(start + sbd_mask(good, array(1, 20_000, 20_000, name=b"other"), nest))
        assert VOC.load_mask(None, path).tolist() == [[0, 2, 4], [1, 3, 5]]
        for content, part in (
            (sbd_mask(endless), "20000x20000 pixels and has 6 bytes"),
            (array(1, 20_000, 20_000, name=b"GTcls"), "no struct"),
            (sbd_mask(array(1, 20_000, 20_000)), "no matrix of uint8"),
        ):
            path.write_bytes(start + content)
            complaint(lambda: VOC.load_mask(None, path), path, part)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        path.write_bytes(start + unfolding)
        complaint(lambda: VOC.load_mask(None, path), path, "unfolds to more than")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_sbds_masks_are_small(tmp_path):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    huge = {"GTcls": {"Segmentation": np.random.default_rng(0).integers(0, 255, (1200, 1000), np.uint8)}}
    savemat(tmp_path / "sbd/cls/s.mat", huge, do_compression=True)
    dataset = VOC(tmp_path, "trainaug")
    complaint(lambda: dataset[names(dataset).index("s")], "s.mat", "no mask of SBD")
