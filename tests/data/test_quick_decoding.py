"""JPEGs and palette PNGs decoded without Pillow: the same pixels, and the same errors for damaged files."""

import io
import random

import numpy as np
import pytest
from conftest import mask_of, photo
from PIL import Image, PngImagePlugin

from segframe.data import image_io
from segframe.data.image_io import read_image, read_raw
from segframe.data.quick_decoding import decode_jpeg, decode_palette_png
from segframe.errors import UserError


def encoded(image, file_format, **settings):
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def make_jpeg(**settings):
    return encoded(Image.fromarray(photo(1)), "JPEG", **settings)


def make_palette_png(**settings):
    image = Image.fromarray(mask_of(1))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return encoded(image, "PNG", **settings)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def text(content):
    found = PngImagePlugin.PngInfo()
    found.add_text("comment", content)
    return found


def outcome(read, path):
    try:
        values = read(path)
    except UserError as error:
        return str(error)
    return values.dtype, values.shape, values.tobytes(), values.flags.writeable


def outcomes(read, path):
    """The results of reading a file as usual, and by Pillow alone."""
    usual = outcome(read, path)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("decode_jpeg", "decode_palette_png"):
            patch.setattr(image_io, name, lambda path: None)
        return usual, outcome(read, path)


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"exif": exif(6)}, {"quality": 30}])
def test_jpegs(tmp_path, settings):
    (path := tmp_path / "a.jpg").write_bytes(make_jpeg(**settings))
    decoded = decode_jpeg(path)
    assert decoded is not None
    assert np.array_equal(decoded, read_image(path))
    usual, by_pillow = outcomes(read_image, path)
    assert usual == by_pillow
    assert decode_palette_png(path) is None


@pytest.mark.parametrize("settings", [{}, {"dpi": (72, 72)}, {"icc_profile": b"profile"}, {"compress_level": 0}])
def test_palette_pngs(tmp_path, settings):
    (path := tmp_path / "a.png").write_bytes(make_palette_png(**settings))
    assert np.array_equal(decode_palette_png(path), mask_of(1))
    usual, by_pillow = outcomes(read_raw, path)
    assert usual == by_pillow
    assert decode_jpeg(path) is None


@pytest.mark.parametrize(
    "content",
    [
        make_palette_png(exif=exif(6)),
        make_palette_png(pnginfo=text("any")),
        make_palette_png(transparency=1),
        make_palette_png(bits=4),
        encoded(Image.fromarray(mask_of(1)), "PNG"),
        make_palette_png()[:20],
        b"",
    ],
)
def test_other_pngs_are_left_to_pillow(tmp_path, content):
    (path := tmp_path / "a.png").write_bytes(content)
    assert decode_palette_png(path) is None
    usual, by_pillow = outcomes(read_raw, path)
    assert usual == by_pillow


@pytest.mark.parametrize("number", [60, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("read", "content"), [(read_image, make_jpeg()), (read_raw, make_palette_png())])
def test_damaged_files_have_the_same_outcome(tmp_path, read, content, number, capfd):
    path, rng = tmp_path / "a", random.Random(0)
    for _ in range(number):
        damaged = bytearray(content)
        for _ in range(rng.randint(0, 3)):
            damaged[rng.randrange(len(damaged) if rng.random() < 0.5 else 40)] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([None, rng.randrange(len(damaged))])])
        usual, by_pillow = outcomes(read, path)
        if read is read_raw or "damaged?" in by_pillow:
            assert usual == by_pillow
    capfd.readouterr()  # libjpeg's warnings
