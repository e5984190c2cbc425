"""Checks of every mask that training and validation read, and of masks that transforms have changed."""

import albumentations as A
import numpy as np
import pytest
from conftest import RUN, mask_of, photo
from dataset_files import check_error, put_image, put_mask
from PIL import Image

from segframe.data import Folder
from segframe.data.label_map import LabelTable, voc_palette
from segframe.data.mask_checks import check_item, palette_conflicts
from segframe.data.transforms import Transform

RARE = [*range(6)]
"""Samples whose masks hold 0 only, after them one of 0 and 255."""


def put_rare_masks(root, *more):
    for k, values in enumerate([*([0] * len(RARE)), [0] * 8 + [255] * 8, *more]):
        put_image(root / f"images/train/{k}.png")
        put_mask(root / f"masks/train/{k}.png", values)


def test_the_reader_refuses_a_mask_of_0_and_255_if_no_mask_holds_1(tmp_path):
    put_rare_masks(tmp_path)
    dataset = Folder(tmp_path, "train", classes=["good", "defect"])
    assert dataset[0]["mask"].max() == 0
    advice = (
        "for black and white masks set data.dataset.binary=true; if 255 is void, set 'data.dataset.label_map={255: i"
    )
    check_error(lambda: dataset[len(RARE)], tmp_path / "masks/train/6.png: mask of 0 and 255 only", advice)
    for label_map, values in (({255: 1}, {0, 1}), ({255: "ignore"}, {0, 255})):
        known = Folder(tmp_path, "train", classes=["good", "defect"], label_map=label_map)
        assert set(known[len(RARE)]["mask"].unique().tolist()) == values
    assert Folder(tmp_path, "train", classes=["good", "a", "b"])[len(RARE)]["mask"].max() == 255
    Image.fromarray(np.full((12, 16), 255, np.uint16)).save(tmp_path / "masks/train/5.png")
    check_error(lambda: dataset[5], "masks/train/5.png: mask of 0 and 255 only")
    put_rare_masks(tmp_path, 1)
    assert Folder(tmp_path, "train", classes=["good", "defect"])[len(RARE)]["mask"].max() == 255


def test_the_error_of_a_worker_ends_the_training_in_one_line(run, photos):
    """The check before a training reads 16 of 17 masks; a worker reads the last."""
    for part in ("train", "val"):
        for k in range(17):
            Image.fromarray(photo(k)).save(photos / f"images/{part}/{k + 10}.png")
            Image.fromarray(mask_of(k) // 2 * np.uint8(255 * (k == 16))).save(photos / f"masks/{part}/{k + 10}.png")
    for k in range(6):
        (photos / f"images/train/{k}.png").unlink()
    data = ("data=folder", "data.root=photos", "data.dataset.classes=[good,defect]", "data.crop_size=32")
    small = ("backbone=resnet18", "head=fcn", "data.batch_size=2", "data.num_workers=1", "data.weights=null")
    result = run("train.py", *data, *small, *RUN, "trainer.max_steps=2", "output_dir=first")
    assert "/26.png: mask of 0 and 255 only, and 255 is void; for black and white masks set" in result.error


VOC = np.array(voc_palette(3), np.uint8)


def put_palette_mask(path, indices, colours):
    mask = Image.fromarray(np.array([indices], np.uint8))
    mask.putpalette(np.array(colours, np.uint8).tobytes())
    mask.save(path)


def test_palettes_that_give_declared_colours_to_other_classes(tmp_path):
    put_image(tmp_path / "images/train/a.png", (1, 3))
    (tmp_path / "masks/train").mkdir(parents=True)
    put_palette_mask(tmp_path / "masks/train/a.png", [0, 1, 2], VOC[[2, 1, 0]])
    classes = {"classes": ["ground", "tree", "car"]}
    assert Folder(tmp_path, "train", **classes)[0]["mask"].tolist() == [[0, 1, 2]]  # check_data warns
    declared = Folder(tmp_path, "train", **classes, palette="voc")
    sentence = "index 0 is #008000, the colour of car, index 2 is #000000, the colour of ground"
    check_error(lambda: declared[0], "a.png", sentence, "set 'data.dataset.label_map={0: 2, 2: 0}'")
    mapped = Folder(tmp_path, "train", **classes, palette="voc", label_map={0: 2, 2: 0})
    assert mapped[0]["mask"].tolist() == [[2, 1, 0]]
    corrected = Folder(tmp_path, "train", **classes, palette=VOC[[2, 1, 0]].tolist())
    assert corrected[0]["mask"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("num_classes", "palette", "used", "conflicts"),
    [
        (3, VOC[[0, 1, 2]], [0, 1, 2], {}),
        (3, VOC[[2, 0, 1]], [0, 2], {0: 2, 2: 1}),
        (3, [*VOC[[1, 0]], (9, 9, 9)], [0, 1, 2], {}),  # a colour that nobody knows
        (3, [(1, 1, 1), (0, 0, 0)], [0, 1], {0: 1, 1: 0}),
        (3, [(k, k, k) for k in range(3)], [0, 1, 2], {}),
        (2, [(255, 255, 255), (0, 0, 0)], [0, 1], {0: 1, 1: 0}),
        (3, [(0, 0, 0)] * 3, [0, 1, 2], {}),
    ],
)
def test_usual_colours_in_another_order(num_classes, palette, used, conflicts):
    labels = LabelTable([f"c{k}" for k in range(num_classes)], {}, ())
    assert palette_conflicts(labels, np.array(palette, np.uint8).tobytes(), used) == conflicts


def test_shades_of_grey_that_are_declared_colours(tmp_path):
    put_image(tmp_path / "images/train/a.png")
    put_mask(tmp_path / "masks/train/a.png", [0] * 8 + [255] * 8)
    shades = {"classes": ["ground", "tree", "car"], "palette": [[k, k, k] for k in (0, 127, 255)]}
    dataset = Folder(tmp_path, "train", **shades)
    check_error(lambda: dataset[0], "index 255 is #ffffff, the colour of car", "label_map={255: 2}'")
    put_mask(tmp_path / "masks/train/a.png", [0, 1, 2, 255] * 4)
    assert Folder(tmp_path, "train", **shades)[0]["mask"].unique().tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_labels_in_the_alpha_channel(tmp_path, mode):
    put_image(tmp_path / "images/train/a.png", (1, 3))
    (tmp_path / "masks/train").mkdir(parents=True)
    pixels = np.zeros((1, 3, len(mode)), np.uint8)
    pixels[..., -1] = [0, 1, 2]
    Image.fromarray(pixels).save(tmp_path / "masks/train/a.png")
    dataset = Folder(tmp_path, "train", classes=["x", "y"], palette="voc")
    check_error(lambda: dataset[0], "masks/train/a.png", "save the alpha channel as grey PNG")


class Lossy(A.DualTransform):
    """Applies a function to the mask alone."""

    def __init__(self, change):
        super().__init__(p=1)
        self.change = change

    def apply(self, img, **params):
        return img

    def apply_to_mask(self, mask, **params):
        return self.change(mask)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda mask: mask[:6], "the image is (12, 16) and its mask (6, 16)"),
        (lambda mask: mask / 255, "the mask is float64;"),
        (lambda mask: mask + 2, "the mask holds 2, 3, and a class is 0 to 1, void 255"),
        (lambda mask: mask.astype(np.int64) - 1, "the mask holds -1, and"),
    ],
)
def test_wrong_masks_from_a_transform_are_refused(tmp_path, change, part):
    put_image(tmp_path / "images/train/a.png")
    put_mask(tmp_path / "masks/train/a.png", [0] * 8 + [1] * 8)
    dataset = Folder(tmp_path, "train", Transform([Lossy(change)]), classes=["x", "y"])
    check_error(lambda: dataset[0], "images/train/a.png (12x16 pixels, sample 0): ", part)


def test_masks_are_interpolated_by_nearest_only():
    Transform([A.OneOf([A.Resize(8, 8), A.Affine(mask_interpolation=0)])])
    steps = [A.OneOf([A.Affine(mask_interpolation=1)])]
    check_error(lambda: Transform(steps), "transforms: mask_interpolation=1 of Affine", "leave it out")


class OwnMasks(Folder):
    def read(self, index):
        return super().read(index)[0], np.full((12, 16), 7, np.uint8)


def test_masks_of_a_data_set_of_ones_own(tmp_path):
    put_image(tmp_path / "images/train/a.png")
    put_mask(tmp_path / "masks/train/a.png")
    dataset = OwnMasks(tmp_path, "train", classes=["x", "y"])
    check_error(
        lambda: dataset[0], "images/train/a.png (12x16 pixels, sample 0): the mask holds 7, and a class is 0 to 1"
    )


def test_masks_of_other_integers_become_bytes():
    labels, image = LabelTable(("x", "y"), {}, ()), np.zeros((1, 3, 3), np.uint8)
    mask = check_item(labels, image, np.array([[0, 1, 255]], np.int64))
    assert (mask.dtype, mask.tolist()) == (np.uint8, [[0, 1, 255]])
