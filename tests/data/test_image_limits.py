"""Images whose header asks for more memory than they are worth are refused before any is allocated."""

import struct
import time
import tracemalloc
import zlib

from dataset_files import check_error, png_bytes
from PIL import Image

from segframe.data.image_io import MAX_PIXELS, read_header, read_image, read_raw

Image.init()  # Pillow's readers take memory too, once
READERS = (read_image, read_raw, read_header)


def png(width, height, size):
    """A grey PNG with this header and `size` bytes of pixels."""
    return png_bytes(width, height, 8, 0, zlib.compress(bytes(size)))


def patch_header(tmp_path, suffix, *changes):
    """A small image whose header claims other numbers."""
    path = tmp_path / f"bomb{suffix}"
    Image.new("L", (31, 33)).save(path)
    for old, new in changes:
        path.write_bytes(path.read_bytes().replace(old, new, 1))
    return path


def check_refused(path, *parts):
    """All readers refuse the file, at once and without memory."""
    for read in READERS:
        tracemalloc.start()
        start = time.perf_counter()
        check_error(lambda read=read: read(path), path, f"{MAX_PIXELS:,}", "tiles", *parts)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_huge_headers(tmp_path):
    (tmp_path / "b.png").write_bytes(png(100_000, 90_000, 1 << 20))
    check_refused(tmp_path / "b.png", "90000x100000")
    change = struct.pack(">2H", 33, 31), struct.pack(">2H", 65_000, 64_000)
    check_refused(patch_header(tmp_path, ".jpg", change), "65000x64000")
    tags = ((256, 31, 65_535), (257, 33, 65_000))  # ImageWidth and ImageLength, one LONG each
    changes = [[struct.pack("<2H2I", tag, 4, 1, value) for value in values] for tag, *values in tags]
    check_refused(patch_header(tmp_path, ".tif", *changes), "65000x65535")


def test_only_formats_with_a_listed_suffix_are_opened(tmp_path):
    """Pillow decodes an icon as it is opened, and runs a program for a PostScript file."""
    inner = png(16, 16, 17 * 16)
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    for name, content in (("icon.png", icon), ("script.jpg", postscript)):
        (tmp_path / name).write_bytes(content)
        for read in READERS:
            check_error(lambda read=read, name=name: read(tmp_path / name), tmp_path / name, "cannot identify")


def test_pngs_with_more_or_fewer_pixels_than_the_header_says(tmp_path):
    path = tmp_path / "b.png"
    path.write_bytes(png(20, 10, 1 << 26))
    tracemalloc.start()
    assert read_raw(path).shape == (10, 20)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    path.write_bytes(png(100_000, 1_000, 10))  # Pillow itself warns from half of the limit on
    assert read_header(path) == ("PNG", "L", 1_000, 100_000, 1, b"")
    check_error(lambda: read_raw(path), path, "damaged")
