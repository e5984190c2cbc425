"""Images of any number of channels, of 8 and 16 bits: values, and what is refused since it would be lost."""

import albumentations as A
import numpy as np
import pytest
import tifffile
import torch
from conftest import composed
from dataset_files import check_error, png_of_16_bits, put_mask
from PIL import Image

from segframe.config.instantiate import instantiate
from segframe.data import ColorMatrixJitter, RandomScaleCrop, Shapes, Transform
from segframe.data.build import build_data_module, build_datasets
from segframe.data.image_io import read_header, read_image
from segframe.data.inspection import report, splits
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
    for max_value in (65_535, 4095):
        values = np.arange(max_value + 1, dtype=np.uint16)
        scaled = PixelFormat(1, max_value).scaled(values)
        assert scaled[max_value] == 255
        assert len(np.unique(scaled)) == len(values)
        assert np.array_equal(np.rint(scaled.astype(float) * max_value / 255), values)
    assert PixelFormat(1, 4095).scaled(np.uint16([5000])) == 255
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


def test_bands_in_pages_and_other_byte_orders(tmp_path):
    """As Fiji and astronomers write them."""
    for high in (256, 65_536):
        values = noise(4, high)
        tifffile.imwrite(tmp_path / "i.tif", np.moveaxis(values, 2, 0), imagej=True, metadata={"axes": "CYX"})
        assert np.array_equal(read_image(tmp_path / "i.tif", PixelFormat(4, high - 1)), values)
    np.save(tmp_path / "i.npy", values.astype(">u2"))
    assert np.array_equal(read_image(tmp_path / "i.npy", PixelFormat(4, 65_535)), values)


@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("high", [256, 65_536])
def test_a_fourth_band_changes_no_other(tmp_path, kind, high):
    """Alpha neither divides the colours nor is it multiplied with them."""
    values = noise(4, high)
    tifffile.imwrite(tmp_path / "i.tif", values, photometric="rgb", extrasamples=[kind])
    assert np.array_equal(read_image(tmp_path / "i.tif", PixelFormat(4, high - 1)), values)
    (tmp_path / "i.tif").rename(tmp_path / "i.png")  # a TIFF by another name
    assert np.array_equal(read_image(tmp_path / "i.png", PixelFormat(4, high - 1)), values)
    values[..., 3] = 100
    tifffile.imwrite(tmp_path / "i.tif", values, photometric="rgb", extrasamples=[kind])
    assert np.array_equal(read_image(tmp_path / "i.tif", PixelFormat(3, high - 1)), values[..., :3])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_what_would_be_lost_is_refused(tmp_path, suffix):
    path = tmp_path / f"i{suffix}"
    for high in (256, 65_536):
        save(path, noise(4, high))
        check_error(
            lambda high=high: read_image(path, PixelFormat(3, high - 1)),
            f"{path} has 4 channels, and those after RGB (alpha or bands) vary, but data.channels=3: "
            "train with data.channels=4 and normalize for as many, or save it with 3",
        )
    for channels in (1, 3, 4):
        save(path, noise(channels))
        check_error(
            lambda c=channels: read_image(path, PixelFormat(c)), f"{path} has 16 bits", "data.max_value=255: train with"
        )
    save(path, noise(3, 256))
    check_error(lambda: read_image(path, PixelFormat(1)), f"{path} has 3 channels, but data.channels=1")
    check_error(lambda: read_image(path, PixelFormat(5)), "but data.channels=5: train with data.channels=3")
    check_error(lambda: read_image(path, PixelFormat(3, 4095)), "has 8 bits", "data.max_value=4095: train with")
    save(path, np.full((4, 5, 3), 5000, np.uint16))
    check_error(lambda: read_image(path, PixelFormat(3, 4095)), "holds 5000, and data.max_value=4095: set")


def test_further_pages_and_other_types_are_refused(tmp_path):
    path = tmp_path / "i.tif"
    tifffile.imwrite(path, np.zeros((2, 4, 5), np.uint16), photometric="minisblack")
    check_error(lambda: read_image(path, PixelFormat(1, 65_535)), f"{path} holds 2 pictures", "for data.channels=2")
    tifffile.imwrite(path, noise(1)[..., 0], photometric="miniswhite")
    check_error(lambda: read_image(path, PixelFormat(1, 65_535)), f"{path} stores white as 0 in 16 bits")
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "i.png", transparency=1)
    check_error(lambda: read_image(tmp_path / "i.png"), "i.png has 2 channels, and those after the first (alpha")
    tifffile.imwrite(path, np.zeros((4, 5, 3), np.float32), photometric="rgb")
    check_error(lambda: read_image(path), f"{path} holds float32: save its values as uint8 or uint16")
    np.save(tmp_path / "i.npy", np.zeros((2, 3, 4, 5), np.uint8))
    check_error(lambda: read_image(tmp_path / "i.npy"), "i.npy holds an array of shape (2, 3, 4, 5)")
    np.save(tmp_path / "i.npy", np.zeros((6, 4, 5), np.uint8))
    check_error(lambda: read_image(tmp_path / "i.npy", PixelFormat(6)), "save its array (6, 4, 5) as (H, W, channels)")
    np.save(tmp_path / "i.npy", np.array([{}]))
    check_error(lambda: read_image(tmp_path / "i.npy"), "cannot read", "i.npy, is the file damaged?")


@pytest.fixture
def bands(tmp_path):
    """Images of 5 bands of 12 bits and their masks: 3 for training, of different sizes, and 1 for validation."""
    for split, sizes in (("train", [(40, 52), (64, 33), (35, 35)]), ("val", [(50, 40)])):
        for k, size in enumerate(sizes):
            (tmp_path / "images" / split).mkdir(parents=True, exist_ok=True)
            values = RNG.integers(0, 4096, (*size, 5)).astype(np.uint16)
            save(tmp_path / f"images/{split}/{k}.tif", values // np.arange(1, 6, dtype=np.uint16))
            put_mask(tmp_path / f"masks/{split}/{k}.png", RNG.integers(0, 2, size), size)
    return tmp_path


def configured(bands, *words):
    settings = ["data.dataset.classes=[ground,tree]", "data.channels=5", "data.max_value=4095", "data.crop_size=32"]
    config = composed("data=folder", "data.root=bands", *settings, "data.num_workers=0", "data.batch_size=2", *words)
    config.data.root = str(bands)
    return config


@pytest.mark.parametrize("cache", ["null", "disk"])
def test_batches_are_in_units_of_255(bands, cache):
    """Whole images exactly; augmented ones within the range, and padded with their mean."""
    config = configured(bands, f"data.cache={cache}")
    train, val = build_datasets(config)
    stored = tifffile.imread(bands / "images/val/0.tif")
    for _ in range(2):
        image = val[0]["image"]
        assert image.dtype == torch.float32
        assert np.array_equal(np.rint(image.permute(1, 2, 0).numpy().astype(float) * 4095 / 255), stored)
    data, _ = build_data_module(config, train, val)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 5, 32, 32)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    means = batch["image"].mean((0, 2, 3))
    assert means == pytest.approx(127.5 / np.arange(1, 6), rel=0.2)


def test_check_data_measures_mean_and_std(bands):
    config = configured(bands)
    make_dataset = instantiate(config.data.dataset, "data.dataset")
    found = splits.find_splits(make_dataset, config.data, None)
    splits.examine_all(found.splits, 0)
    pixels = [tifffile.imread(path).reshape(-1, 5) * (255 / 4095) for path in sorted(bands.glob("images/train/*"))]
    every = np.concatenate(pixels)
    measured = report.summarize(found.splits[0])["normalize"]
    assert measured["mean"] == pytest.approx(every.mean(0), abs=1e-3)
    assert measured["std"] == pytest.approx(every.std(0), abs=1e-3)
    line = report.normalize_line(found.splits[0])
    assert [config.normalize.mean, config.normalize.std] != [measured["mean"], measured["std"]]
    typed = configured(bands, *(word.strip("'") for word in line.split()))
    assert [typed.normalize.mean, typed.normalize.std] == [measured["mean"], measured["std"]]


@pytest.mark.parametrize(("channels", "high"), [(1, 256), (5, 256), (3, 65_536), (2, 65_536)])
def test_augmentation_of_any_channels_and_bits(channels, high):
    image = RNG.integers(0, high, (40, 50, channels)).astype(np.uint8 if high == 256 else np.uint16)
    steps = [RandomScaleCrop(64, (0.5, 0.9)), A.HorizontalFlip(p=1), ColorMatrixJitter(0.2, 0.2, 0.2, 0.05, p=1)]
    found, mask = Transform(steps)(image, np.ones((40, 50), np.uint8), seed=0)
    assert found.shape == (64, 64, channels)
    assert found.dtype == image.dtype
    assert (mask == 255).any()
    crop = RandomScaleCrop(64, (1, 1))
    padded = crop(image=image, mask=np.ones((40, 50), np.uint8))["image"]
    assert np.array_equal(padded[:40, :50], image)
    assert np.array_equal(padded[50, 10], np.rint(image.mean((0, 1))))
    jitter = ColorMatrixJitter((1.5, 1.5), (1, 1), (1, 1), (0, 0), p=1)
    brighter = jitter(image=image)["image"]
    assert np.abs(brighter - np.minimum(image * 1.5, high - 1)).max() <= 1


def test_transforms_that_change_the_number_of_channels_are_refused():
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    grey = A.ToGray(num_output_channels=1, p=1)
    check_error(lambda: Transform([grey])(image, mask, seed=0), "turn 3 channels into an image of shape (8, 8")
    check_error(lambda: RandomScaleCrop(64, (1, 1), fill=(1, 2))(image=image, mask=mask), "fill=[1, 2]", "3 channels")


@pytest.mark.parametrize("channels", [1, 5])
def test_generated_images_of_any_channels(channels):
    plain, dataset = Shapes(None, "val"), Shapes(None, "val")
    dataset.pixels = PixelFormat(channels, 65_535)
    image = dataset[0]["image"]
    assert image.shape == (channels, 96, 96)
    assert image.dtype == torch.float32
    if channels == 5:
        assert torch.equal(image[:3], plain[0]["image"].float())
    plain.pixels = PixelFormat(7, 4095)
    plain.generated[0] = np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8)
    check_error(lambda: plain[0], "Shapes val_0000 is uint8 of shape (96, 96, 3), but data.channels=7")
