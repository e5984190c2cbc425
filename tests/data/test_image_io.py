"""Reading images and masks: modes, orientation, bit depths, damaged and unusual files."""

import os
import zlib
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from dataset_files import SIZE, check_error, damaged_copies, png_bytes, png_of_16_bits, put_mask
from PIL import Image, ImageOps

from segframe.data import VOC, Folder
from segframe.data.image_io import MAX_BYTES, read_header, read_image, read_raw
from segframe.errors import UserError

READERS = (read_image, read_raw, read_header)


def test_orientation_is_applied_to_image_and_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    Image.fromarray(pixels[..., 0] // 255).save(tmp_path / "m.png", exif=exif)
    image, mask = read_image(tmp_path / "i.png"), read_raw(tmp_path / "m.png")
    assert image.shape == (*SIZE[::-1], 3)
    assert (image[:, -1] == 255).all()
    assert (mask == image[..., 0] // 255).all()


@pytest.mark.parametrize(("mode", "orientation"), [*(("RGB", k) for k in range(1, 9)), ("L", 6), ("CMYK", 1)])
def test_jpegs_are_read_as_pillow_reads_them(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    photo = Image.fromarray(pixels).resize((90, 50), Image.Resampling.BICUBIC).convert(mode)
    photo.save(tmp_path / "i.jpg", exif=exif)
    photo.save(tmp_path / "i.jpeg", exif=exif, progressive=True, subsampling=0)
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        found = read_image(path)
        assert found.flags.c_contiguous
        assert (found == expected).all()


def test_suffix_and_format_may_differ(tmp_path):
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "i.png")
    (tmp_path / "i.png").rename(tmp_path / "i.jpg")
    assert (read_image(tmp_path / "i.jpg") == (9, 8, 7)).all()
    # A camera's JPEG of several pictures, which Pillow calls MPO.
    first, second = (Image.new("RGB", (6, 4), (grey, grey, grey)) for grey in (9, 200))
    first.save(tmp_path / "i.jpg", "MPO", save_all=True, append_images=[second])
    assert read_header(tmp_path / "i.jpg")[:4] == ("MPO", "RGB", 4, 6)
    assert (read_image(tmp_path / "i.jpg") == 9).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "i.tif")
    image = read_image(tmp_path / "i.tif")
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_and_palette_masks_of_few_bits_hold_indices(tmp_path, bits):
    values = np.arange(35).reshape(5, 7) % 2**bits
    binary = ((values[..., None] >> np.arange(bits)[::-1]) & 1).reshape(5, -1).astype(np.uint8)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.packbits(binary, axis=1)))
    for colour_type, palette in ((0, b""), (3, bytes(3 * 2**bits))):
        (tmp_path / "m.png").write_bytes(png_bytes(7, 5, bits, colour_type, pixels, palette))
        assert (read_raw(tmp_path / "m.png") == values).all()


def test_masks_of_other_modes(tmp_path):
    Image.fromarray(np.array([[[3, 9], [4, 0]]], np.uint8), "LA").save(tmp_path / "m.png")
    assert read_raw(tmp_path / "m.png").tolist() == [[3, 4]]
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "m.tif")
    check_error(lambda: read_raw(tmp_path / "m.tif"), "m.tif holds values from 0 to 70000", "astype('uint8')")
    for kind in (np.int64, np.uint64, np.float64):
        tifffile.imwrite(tmp_path / "m.tif", np.eye(5, dtype=kind))
        check_error(lambda: read_raw(tmp_path / "m.tif"), f"m.tif holds {np.dtype(kind)}: masks have 8", "as a PNG")
    Image.new("CMYK", (5, 4)).save(tmp_path / "m.tif")
    check_error(lambda: read_raw(tmp_path / "m.tif"), tmp_path / "m.tif", "mode CMYK", "palette PNG")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_masks_of_16_bits_have_one_channel(tmp_path, channels):
    values = np.arange(6 * channels).reshape(2, 3, channels) * 999
    path = tmp_path / "m.png"
    path.write_bytes(png_of_16_bits(values))
    if channels == 1:
        assert (read_raw(path) == values[..., 0]).all()
    else:
        check_error(lambda: read_raw(path), f"{path} has 16 bits in more than one channel: save it")


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png"])
def test_masks_of_several_pictures_are_refused(tmp_path, suffix):
    first, second = (Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (0, 1))
    path = tmp_path / f"m{suffix}"
    first.save(path)
    assert (read_raw(path) == 0).all()
    first.save(path, save_all=True, append_images=[second])
    check_error(lambda: read_raw(path), f"{path} holds more than one picture")
    what = "2 pictures: save each in a file of its own, or if they are bands, as channels of one picture, for data.chan"
    check_error(lambda: read_image(path), f"{path} holds {what if suffix == '.tif' else 'more than one picture'}")


@pytest.mark.parametrize("kind", [1, 4])
def test_overviews_in_a_tiff_are_no_further_pictures(tmp_path, kind):
    """As in cloud-optimized GeoTIFFs."""
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    second = Image.fromarray(values[::2, ::2].copy())
    second.encoderinfo = {"tiffinfo": {254: kind}}
    Image.fromarray(values).save(tmp_path / "m.tif", save_all=True, append_images=[second])
    assert (read_raw(tmp_path / "m.tif") == values).all()


def test_damaged_second_page_of_a_tiff(tmp_path):
    path = tmp_path / "m.tif"
    Image.fromarray(np.ones((3, 4), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[link : link + 4] = len(content).to_bytes(4, "little")
    # One tag only, the compression: no width and no height.
    path.write_bytes(bytes(content) + bytes.fromhex("010003010300010000000100000000000000"))
    check_error(lambda: read_raw(path), "cannot read", "m.tif, is the file damaged?")


def test_damaged_png_masks(tmp_path):
    put_mask(tmp_path / "m.png", np.arange(16), palette=True)
    for data in damaged_copies((tmp_path / "m.png").read_bytes()):
        (tmp_path / "d.png").write_bytes(data)
        with suppress(UserError):
            assert (read_raw(tmp_path / "d.png") == np.arange(16)).all()


def test_damaged_files_are_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.jpg", "text.png", "gone.png"):
        check_error(lambda name=name: read_image(tmp_path / name), tmp_path / name)
    check_error(lambda: read_raw(tmp_path / "text.png"), tmp_path / "text.png")


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "pipe"), (".jpg", "device"), (".tif", "folder")])
def test_only_regular_files_are_read(tmp_path, suffix, kind):
    def put_special(path):
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()

    path = tmp_path / f"m{suffix}"
    put_special(path)
    for read in READERS:
        check_error(lambda read=read: read(path), f"{path} is no regular file")
    put_special(tmp_path / "list.txt")
    check_error(lambda: Folder(tmp_path, "train", classes="list.txt"), "list.txt is no regular file")
    put_special(tmp_path / "s.mat")
    check_error(lambda: VOC.load_mask(None, tmp_path / "s.mat"), "s.mat is no regular file")


def test_files_larger_than_any_image_are_refused(tmp_path):
    path = tmp_path / "m.png"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)  # sparse
    for read in READERS:
        check_error(lambda read=read: read(path), path, f"{MAX_BYTES:,}", "another file?")
