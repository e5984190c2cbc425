"""Images and masks as files: modes, orientation, label maps."""

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_data import SIZE, complaint, put_mask

from segframe.data.image_io import read_header, read_image, read_raw
from segframe.data.label_map import LabelTable
from segframe.data.palettes import voc_palette
from segframe.errors import UserError


def table_of(classes, label_map, palette=()):
    return LabelTable(classes, label_map, palette or voc_palette(len(classes)))


def test_palette_masks_are_read_as_indices(tmp_path):
    put_mask(tmp_path / "m.png", np.arange(16), palette=True)
    with Image.open(tmp_path / "m.png") as mask:
        assert mask.mode == "P"
    assert (read_raw(tmp_path / "m.png") == np.arange(16)).all()


def test_orientation_is_applied_to_image_and_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    Image.fromarray(pixels[..., 0] // 255).save(tmp_path / "m.png", exif=exif)
    image, mask = read_image(tmp_path / "i.png"), read_raw(tmp_path / "m.png")
    assert image.shape == (*SIZE[::-1], 3)
    assert (image[:, -1] == 255).all()
    assert (mask == image[..., 0] // 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
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


def test_jpegs_under_other_names_and_others_named_jpeg(tmp_path):
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "i.png")
    (tmp_path / "i.png").rename(tmp_path / "i.jpg")
    assert (read_image(tmp_path / "i.jpg") == (9, 8, 7)).all()


def test_cameras_jpegs_with_more_than_one_picture(tmp_path):
    """Pillow calls them MPO, and has no reader of this name."""
    first, second = (Image.new("RGB", (6, 4), (grey, grey, grey)) for grey in (9, 200))
    first.save(tmp_path / "i.mpo", save_all=True, append_images=[second])
    data = (tmp_path / "i.mpo").read_bytes()
    for name in ("i.jpg", "i.png"):
        (tmp_path / name).write_bytes(data)
        assert read_header(tmp_path / name)[:4] == ("MPO", "RGB", 4, 6)
        assert (read_image(tmp_path / name) == 9).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "i.tif")
    image = read_image(tmp_path / "i.tif")
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8


def test_sixteen_bit_masks_go_through_the_label_map(tmp_path):
    Image.fromarray(np.array([[0, 1000], [40000, 0]], np.uint16)).save(tmp_path / "m.png")
    table = table_of(("ground", "cat"), {1000: "cat", 40000: "ignore"})
    assert table(read_raw(tmp_path / "m.png"), tmp_path).tolist() == [[0, 1], [255, 0]]


def test_one_bit_masks(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert read_raw(tmp_path / "m.png").tolist() == [[1, 0]]


def png(values, bits, kind, palette=b""):
    """A PNG file whose rows hold so many bits per pixel, which Pillow does not write for grey."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    binary = ((values[..., None] >> np.arange(bits)[::-1]) & 1).reshape(len(values), -1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(binary, axis=1))
    head = struct.pack(">2I5B", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    chunks = [
        (b"IHDR", head),
        *([(b"PLTE", palette)] if palette else []),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_hold_indices(tmp_path, bits):
    values = np.arange(35).reshape(5, 7) % 2**bits
    (tmp_path / "grey.png").write_bytes(png(values, bits, 0))
    (tmp_path / "palette.png").write_bytes(png(values, bits, 3, bytes(range(3 * 2**bits)) if bits < 8 else bytes(768)))
    assert (read_raw(tmp_path / "grey.png") == values).all()
    assert (read_raw(tmp_path / "palette.png") == values).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 33)])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_png_masks_with_and_without_filters(tmp_path, mode, size):
    """Grey ones are filtered as Pillow writes them, palettes are not."""
    values = np.add.outer(np.arange(size[0]), np.arange(size[1])).astype(np.uint8)
    mask = Image.fromarray(values)
    if mode == "P":
        mask.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    mask.save(tmp_path / "m.png")
    found = read_raw(tmp_path / "m.png")
    assert (found == values).all()
    assert found.flags.writeable


def test_any_damage_to_a_png_mask_is_told_or_harmless(tmp_path):
    put_mask(tmp_path / "m.png", np.arange(16), palette=True)
    whole, rng = (tmp_path / "m.png").read_bytes(), np.random.default_rng(0)
    noisy = [bytearray(whole) for _ in range(60)]
    for data in noisy:
        data[rng.integers(len(data))] ^= 255
    for data in (*(whole[:length] for length in range(0, len(whole), 7)), *noisy):
        (tmp_path / "d.png").write_bytes(data)
        with suppress(UserError):
            assert (read_raw(tmp_path / "d.png") == np.arange(16)).all()


def test_what_is_no_mask_is_refused(tmp_path):
    Image.new("CMYK", (5, 4)).save(tmp_path / "m.tif")
    complaint(lambda: read_raw(tmp_path / "m.tif"), tmp_path / "m.tif", "mode CMYK", "palette PNG")


def test_damaged_files_are_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.jpg", "text.png", "gone.png"):
        complaint(lambda name=name: read_image(tmp_path / name), tmp_path / name)
    complaint(lambda: read_raw(tmp_path / "text.png"), tmp_path / "text.png")


def test_other_values_and_names_in_a_label_map():
    table = table_of(("road", "car"), {7: "road", 26: 1, "other": "ignore"})
    assert table(np.array([[7, 26, 0, 1, 255]], np.uint8), Path("m")).tolist() == [[0, 1, 255, 255, 255]]


def test_an_unlisted_value_may_not_share_a_class():
    table = table_of(("a", "b", "c"), {7: 1})
    assert table(np.array([[7, 0, 2]], np.uint8), Path("m")).tolist() == [[1, 0, 2]]
    cure = "list 1 too: set '++data.dataset.label_map={7: 1, 1: 1}', or"
    complaint(lambda: table(np.array([[1]], np.uint8), Path("m.png")), "m.png", cure)


@pytest.mark.parametrize(
    ("num_classes", "values", "cure"),
    [
        (2, [0, 1, 7], "set 'data.dataset.label_map={7: ignore}', or"),
        (2, [0, 200], "set 'data.dataset.label_map={200: 1}'"),
        (11, [0, 5, 11], "label_map={11: 255}"),
        (3, [1, 2, 3, 255], "count from 1? Then set 'data.dataset.label_map={1: 0, 2: 1, 3: 2}'; or is 3 the void?"),
        (19, [1, 7, 19], "count from 1?"),
        (19, [7, 19, 33], "Cityscapes labelIds"),
        (19, [0, 7, 33], "Cityscapes labelIds"),
        (3, list(range(60)), "JPEG"),
    ],
)
def test_values_that_are_no_class_come_with_a_cure(num_classes, values, cure):
    table = table_of([f"c{i}" for i in range(num_classes)], {})
    mask = np.array([values], np.uint8)
    complaint(lambda: table(mask, Path("m.png")), "m.png", "(1 pixels)", f"{num_classes} classes", cure)


@pytest.mark.parametrize("values", [[21], [3], [0x123456]])
def test_no_setting_cures_what_a_dataset_fixes(values):
    table = LabelTable([f"c{i}" for i in range(21)], {7: 3}, voc_palette(21), are_settings=False)
    values = np.array(values, np.uint32 if values[0] > 255 else np.uint8)
    assert table.cure(values).startswith("this dataset's classes and their values are fixed, so correct the file")


def test_every_value_of_a_byte_without_a_label_map():
    table = table_of(("a", "b"), {})
    for value in range(256):
        mask = np.full((2, 3), value, np.uint8)
        if value in (0, 1, 255):
            assert (table(mask, Path("m")) == value).all()
        else:
            complaint(lambda mask=mask: table(mask, Path("m.png")), f"value {value} (6 pixels)")


@pytest.mark.parametrize(
    ("label_map", "part"),
    [
        ({1: "catt"}, "did you mean 'cat'"),
        ({1: 9}, "9"),
        ({-1: 0}, "-1"),
        ({"x": 0}, "'x'"),
        ({True: 1, False: 0}, "label_map lists True: its keys are mask values"),
        ({2: 1, False: 0}, "label_map lists False"),
        ({"#12345": 0}, "#rrggbb"),
        ({"#aAbBcC": 0, "#AABBCC": 1}, "'#aAbBcC' and '#AABBCC', which are one colour"),
    ],
)
def test_wrong_label_maps(label_map, part):
    complaint(lambda: table_of(("dog", "cat"), label_map), part)


# colours

CITY = ((128, 64, 128), (70, 70, 70), (220, 20, 60))
KEPT = {"#e0e0c0": "ignore"}


def put_colours(path, *colours, mode="RGB"):
    """A mask of one row per colour."""
    rows = np.array([[colour] * 5 for colour in colours], np.uint8)
    if mode == "RGBA":
        rows = np.dstack([rows, np.arange(5 * len(colours), dtype=np.uint8).reshape(-1, 5)])
    Image.fromarray(rows).save(path)
    return path


def read_city(path, label_map=KEPT, palette=CITY):
    return table_of(("road", "building", "person")[: len(palette)], label_map, palette)(read_raw(path), path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_read_by_the_palette(tmp_path, mode, suffix):
    path = put_colours(tmp_path / f"m{suffix}", *CITY, (224, 224, 192), mode=mode)
    mask = read_city(path)
    assert mask.dtype == np.uint8
    assert mask[:, 0].tolist() == [0, 1, 2, 255]
    assert (mask == mask[:, :1]).all()


def test_the_label_map_goes_before_the_palette(tmp_path):
    path = put_colours(tmp_path / "m.png", *CITY, (1, 2, 3))
    assert read_city(path, {"#464646": "person", "other": 255})[:, 0].tolist() == [0, 2, 2, 255]
    assert read_city(path, {"#010203": 1, 7: "road"})[:, 0].tolist() == [0, 1, 2, 1]
    assert read_city(path, {"#010203": 1} | {"#DC143C": 0})[:, 0].tolist() == [0, 1, 0, 1]


def test_indices_are_as_they_were_beside_colours_in_the_label_map():
    table = table_of(("a", "b"), {"#ff0000": "ignore"})
    assert table.is_identity
    assert table(np.array([[0, 1, 255]], np.uint8), Path("m")).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("colours", "parts"),
    [
        ([CITY[0], (224, 224, 192)], ["#e0e0c0 (5 pixels)", "3 classes", '{"#e0e0c0": ignore}']),
        ([(0, 0, 0), (1, 1, 1), (2, 2, 2)], ["#000000 (5 pixels)", "greys", "single channel"]),
        ([CITY[1], (0, 0, 0)], ["#000000 (5 pixels), which", '{"#000000": ignore}']),
        ([(k, k, k) for k in range(20)], ["and 15 more", "single channel"]),
        ([(9, k, 3) for k in range(20)], ["and 15 more", "JPEG"]),
    ],
)
def test_colours_that_are_no_class_come_with_a_cure(tmp_path, colours, parts):
    path = put_colours(tmp_path / "m.png", *colours)
    complaint(lambda: read_city(path, {}), path, *parts)


def test_a_binary_mask_in_black_and_white(tmp_path):
    path = put_colours(tmp_path / "m.png", (0, 0, 0), (255, 255, 255))
    black_and_white = ((0, 0, 0), (255, 255, 255))
    complaint(lambda: read_city(path, {}, CITY[:2]), "palette=[[0,0,0],[255,255,255]]")
    assert read_city(path, {}, black_and_white)[:, 0].tolist() == [0, 1]


def test_classes_of_one_colour_matter_to_colour_masks_alone(tmp_path):
    twins = (CITY[0], CITY[1], CITY[0])
    path = put_colours(tmp_path / "m.png", *CITY[:2])
    complaint(lambda: read_city(path, {}, twins), "#804080 to road and to person")
    assert read_city(path, {"#804080": "person"}, twins)[:, 0].tolist() == [2, 1]
    table = table_of(("road", "building", "person"), {}, twins)
    assert table(np.array([[0, 2]], np.uint8), path).tolist() == [[0, 2]]


def test_grey_masks_with_alpha_are_indices(tmp_path):
    Image.fromarray(np.array([[[3, 9], [4, 0]]], np.uint8), "LA").save(tmp_path / "m.png")
    assert read_raw(tmp_path / "m.png").tolist() == [[3, 4]]


def test_label_ids_of_cityscapes(tmp_path):
    ids = {7: 0, 8: 1, 11: 2, "other": "ignore"}
    put_mask(tmp_path / "m.png", [7, 8, 11, 0, 33, 4, 7, 7] * 2)
    mask = table_of(("road", "sidewalk", "building"), ids)(read_raw(tmp_path / "m.png"), tmp_path)
    assert mask[0, :8].tolist() == [0, 1, 2, 255, 255, 255, 0, 0]
