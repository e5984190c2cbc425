"""Masks, images and lists that are no files, or files of another kind than they seem: told in one sentence."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from test_data import complaint, put_pair
from test_voc import sbd_tree, voc_tree

from segframe.data import VOC, Folder
from segframe.data.image_io import MAX_BYTES, read_header, read_image, read_raw, stored_area

READERS = (read_image, read_raw, read_header, stored_area)
ODD = ("pipe", "device", "folder")


def put_odd(path, kind):
    """What would be read for ever, or not at all."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_what_is_no_file_is_not_read(tmp_path, suffix, kind):
    path = put_odd(tmp_path / f"m{suffix}", kind)
    for read in READERS:
        complaint(lambda read=read: read(path), f"{path} is no regular file")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_files_that_are_larger_than_any_image_are_not_read(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)  # a hole, which takes no room
    for read in READERS:
        complaint(lambda read=read: read(path), path, f"{MAX_BYTES:,}", "another file?")


@pytest.mark.parametrize("kind", ODD)
def test_lists_that_are_no_files(tmp_path, kind):
    put_pair(tmp_path, "a", "train")
    put_pair(tmp_path, "a")
    put_odd(tmp_path / "list.txt", kind)
    complaint(lambda: Folder(tmp_path, "train", classes="list.txt"), "list.txt is no regular file")
    listed = {"train": "list.txt"}
    complaint(lambda: Folder(tmp_path, "train", classes=["x", "y"], splits=listed), "list.txt is no regular file")


@pytest.mark.parametrize("kind", ODD)
def test_masks_of_sbd_that_are_no_files(tmp_path, kind):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    path = put_odd(tmp_path / "sbd/cls/s.mat", kind)
    complaint(lambda: VOC.load_mask(None, path), f"{path} is no regular file")


def test_a_mask_may_be_a_link(tmp_path):
    put_pair(tmp_path, "a", "train", 1)
    (tmp_path / "masks/train/a.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "masks/train/a.png").symlink_to(tmp_path / "elsewhere.png")
    assert (Folder(tmp_path, "train", classes=["x", "y"]).read_mask(0) == 1).all()


def png_of_16_bits(values):
    """A PNG file of so many channels of 16 bits, which Pillow does not write."""
    height, width, channels = values.shape

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">2I5B", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def tiff_of_16_bits(values):
    """A TIFF file of so many channels of 16 bits."""
    height, width, channels = values.shape
    data, kind = values.astype("<u2").tobytes(), 1 if channels == 1 else 2
    tags = [(256, width), (257, height), (259, 1), (262, kind), (277, channels), (278, height), (279, len(data))]
    extra = [(338, 1, 2)] if channels == 4 else []
    end = 8 + 2 + 12 * (len(tags) + 2 + len(extra)) + 4
    entries = [struct.pack("<2HI2H", 258, 3, 1, 16, 0)] if channels == 1 else []
    entries += [struct.pack("<2H2I", 258, 3, channels, end)] if channels > 1 else []
    entries += [struct.pack("<2H2I", tag, 4, 1, value) for tag, value in (*tags, (273, end + 8))]
    entries += [struct.pack("<2HI2H", tag, 3, count, value, 0) for tag, count, value in extra]
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head + struct.pack("<4H", 16, 16, 16, 16) + data


@pytest.mark.parametrize(
    ("write", "channels"),
    [
        *((png_of_16_bits, channels) for channels in (1, 2, 3, 4)),
        *((tiff_of_16_bits, channels) for channels in (1, 3, 4)),
    ],
)
def test_masks_of_16_bits_have_one_channel(tmp_path, write, channels):
    values = np.arange(6 * channels).reshape(2, 3, channels) * 999
    path = tmp_path / f"m.{write.__name__.partition('_')[0]}"
    path.write_bytes(write(values))
    if channels == 1:
        assert (read_raw(path) == values[..., 0]).all()
    else:
        complaint(lambda: read_raw(path), f"{path} has 16 bits in more than one channel: save it")
    if channels > 2:
        assert (read_image(path) == values[..., :3] >> 8).all()


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png"])
def test_masks_of_more_than_one_picture(tmp_path, suffix):
    first, second = (Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (0, 1))
    path = tmp_path / f"m{suffix}"
    first.save(path)
    assert (read_raw(path) == 0).all()
    first.save(path, save_all=True, append_images=[second])
    complaint(lambda: read_raw(path), f"{path} holds more than one picture")
    assert read_image(path).shape == (4, 6, 3)


@pytest.mark.parametrize("kind", [1, 4])
def test_smaller_copies_in_a_tiff_are_no_further_pages(tmp_path, kind):
    """As in cloud optimized GeoTIFFs."""
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    second = Image.fromarray(values[::2, ::2].copy())
    second.encoderinfo = {"tiffinfo": {254: kind}}
    Image.fromarray(values).save(tmp_path / "m.tif", save_all=True, append_images=[second])
    assert (read_raw(tmp_path / "m.tif") == values).all()
