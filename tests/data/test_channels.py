"""Images of any number of channels, of 8 and 16 bits: values, and what is refused since it would be lost."""

import numpy as np
import pytest
import tifffile
from dataset_files import check_error, png_of_16_bits
from PIL import Image

from segframe.data.image_io import read_header, read_image
from segframe.data.pixel_format import PixelFormat

RNG = np.random.default_rng(0)


def noise(channels, high=65_536):
    return RNG.integers(0, high, (4, 5, channels)).astype(np.uint8 if high == 256 else np.uint16)


def save(path, values):
    """Write a file of one channel per band: a NumPy array, a PNG or a TIFF."""
    if path.suffix == ".npy":
        np.save(path, values[..., 0] if values.shape[2] == 1 else values)
    elif path.suffix == ".tif":
        bands = values.shape[2]
        layout = {"photometric": "rgb" if bands > 2 else "minisblack", "planarconfig": "contig" if bands > 1 else None}
        tifffile.imwrite(path, values, **layout)
    elif values.dtype == np.uint16:
        path.write_bytes(png_of_16_bits(values))
    else:
        Image.fromarray(values.squeeze()).save(path)
    return path


@pytest.mark.parametrize("high", [256, 65_536])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_every_bit_of_every_band_is_read(tmp_path, suffix, channels, high):
    if suffix == ".png" and channels == 5:
        pytest.skip("PNG has at most 4 channels")
    values = noise(channels, high)
    path = save(tmp_path / f"i{suffix}", values)
    found = read_image(path, PixelFormat(channels, high - 1))
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert read_header(path)[2:4] == (4, 5)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("planar", [False, True])
def test_layouts_of_tiffs(tmp_path, compression, planar):
    values = noise(6)
    settings = {"photometric": "minisblack", "planarconfig": "separate" if planar else "contig"}
    planes = np.moveaxis(values, 2, 0) if planar else values
    tifffile.imwrite(tmp_path / "i.tif", planes, compression=compression, **settings)
    assert np.array_equal(read_image(tmp_path / "i.tif", PixelFormat(6, 65_535)), values)
    assert read_header(tmp_path / "i.tif")[:2] == ("TIFF", "6 bands of uint16")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_bands(tmp_path, orientation):
    """As Pillow applies it to the same pixels."""
    values = noise(3, 256)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "i.png", exif=exif)
    tags = [("Orientation", "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "i.tif", values.astype(np.uint16), photometric="rgb", extratags=tags)
    expected = read_image(tmp_path / "i.png")
    assert np.array_equal(read_image(tmp_path / "i.tif", PixelFormat(3, 65_535)), expected)


def test_scale_of_16_bits_is_exact():
    values = np.arange(65_536, dtype=np.uint16)
    for max_value in (65_535, 4095):
        scaled = PixelFormat(1, max_value).scaled(values)
        assert scaled[max_value] == 255
        assert len(np.unique(scaled)) == len(values)
        assert np.array_equal(np.rint(scaled.astype(float) * max_value / 255), values)
    assert PixelFormat().scaled(values.astype(np.uint8)).dtype == np.uint8


def test_conversions_that_lose_nothing(tmp_path):
    path, grey, rgb = tmp_path / "i.png", noise(1, 256), noise(3, 256)
    assert np.array_equal(read_image(save(path, grey)), grey.repeat(3, axis=2))
    assert np.array_equal(read_image(save(path, grey.repeat(3, axis=2)), PixelFormat(1)), grey)
    opaque = np.full((4, 5, 1), 200, np.uint8)
    assert np.array_equal(read_image(save(path, np.dstack([rgb, opaque]))), rgb)
    assert np.array_equal(read_image(save(path, np.dstack([grey, opaque])), PixelFormat(1)), grey)
    assert np.array_equal(read_image(save(path, np.dstack([grey, opaque]))), grey.repeat(3, axis=2))
    Image.fromarray(grey[..., 0]).convert("P").save(path)
    assert np.array_equal(read_image(path, PixelFormat(1)), grey)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_what_would_be_lost_is_refused(tmp_path, suffix):
    path = tmp_path / f"i{suffix}"
    for high in (256, 65_536):
        save(path, noise(4, high))
        check_error(
            lambda high=high: read_image(path, PixelFormat(3, high - 1)),
            f"{path} has 4 channels, and those after the first 3 (alpha or bands) vary, but data.channels=3: "
            "set data.channels=4 with normalize for as many, or save it with 3",
        )
    for channels in (1, 3, 4):
        save(path, noise(channels))
        check_error(
            lambda c=channels: read_image(path, PixelFormat(c)), f"{path} has 16 bits", "data.max_value=255: set"
        )
    save(path, noise(3, 256))
    check_error(lambda: read_image(path, PixelFormat(1)), f"{path} has 3 channels, but data.channels=1")
    check_error(lambda: read_image(path, PixelFormat(5)), "but data.channels=5: set data.channels=3")
    check_error(lambda: read_image(path, PixelFormat(3, 4095)), "has 8 bits", "data.max_value=4095: set")
    save(path, np.full((4, 5, 3), 5000, np.uint16))
    check_error(lambda: read_image(path, PixelFormat(3, 4095)), "holds 5000, and data.max_value=4095: set")


def test_further_pages_and_other_types_are_refused(tmp_path):
    path = tmp_path / "i.tif"
    tifffile.imwrite(path, np.zeros((2, 4, 5), np.uint16), photometric="minisblack")
    check_error(lambda: read_image(path, PixelFormat(1, 65_535)), f"{path} holds 2 pictures", "bands as channels")
    tifffile.imwrite(path, np.zeros((4, 5, 3), np.float32), photometric="rgb")
    check_error(lambda: read_image(path), f"{path} holds float32: save its values as uint8 or uint16")
    np.save(tmp_path / "i.npy", np.zeros((2, 3, 4, 5), np.uint8))
    check_error(lambda: read_image(tmp_path / "i.npy"), "i.npy holds an array of shape (2, 3, 4, 5)")
    np.save(tmp_path / "i.npy", np.array([{}]))
    check_error(lambda: read_image(tmp_path / "i.npy"), "cannot read", "i.npy, is the file damaged?")
