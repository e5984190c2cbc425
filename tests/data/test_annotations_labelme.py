"""labelme files as masks: the pixels that labelme fills, its labels, problems."""

import numpy as np
import pytest
from annotation_files import SIZE, encode_png, put_json, put_labelme, shape
from dataset_files import check_error, names, put_image, put_lines
from PIL import Image, ImageDraw

from segframe.data import Folder
from segframe.data.file_listing import collect_problems

ROWS, COLUMNS = np.indices(SIZE)


def mask_of(tmp_path, *shapes, **more):
    put_image(tmp_path / "x.jpg", SIZE)
    put_labelme(tmp_path / "x.json", [*shapes], **more)
    return Folder(tmp_path, "train", annotations=".", val_ratio=1e-9, classes=["background", "cat", "dog"])[0][
        "mask"
    ].numpy()


def test_polygons_are_those_of_labelme(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform((-9, -9), (69, 49), (rng.integers(3, 9), 2))
        canvas = Image.new("L", SIZE[::-1])
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], outline=1, fill=1)
        found = mask_of(tmp_path, shape(points=points.tolist()))
        # The rectangle around a polygon is filled alone; PIL's rounding of edges may depend on its place.
        assert np.count_nonzero(found != np.array(canvas)) <= 2


def test_other_shapes(tmp_path):
    found = mask_of(tmp_path, shape(points=[(20.2, 15.1), (10, 5)], kind="rectangle"))
    inside = (ROWS >= 5) & (ROWS <= 15) & (COLUMNS >= 10) & (COLUMNS <= 20)
    np.testing.assert_array_equal(found, inside)
    corners = [(10, 5), (20.2, 5), (20.2, 15.1), (10, 15.1)]  # X-AnyLabeling
    np.testing.assert_array_equal(mask_of(tmp_path, shape(points=corners, kind="rectangle")), inside)
    found = mask_of(tmp_path, shape(points=[(30, 20), (30, 32)], kind="circle"))
    distance = np.hypot(ROWS - 20, COLUMNS - 30)
    assert (found == (distance <= 12))[abs(distance - 12) > 1].all()
    found = mask_of(tmp_path, shape(points=[(30, 20)], kind="point"))
    distance = np.hypot(ROWS - 20, COLUMNS - 30)
    assert (found == (distance <= 5))[abs(distance - 5) > 1].all()
    for kind, points in (("line", [(10, 20), (40, 20)]), ("linestrip", [(10, 20), (25, 20), (40, 20)])):
        found = mask_of(tmp_path, shape(points=points, kind=kind))
        assert 9 <= found[:, 25].sum() <= 11
        assert found[20, 12]
        assert not found[20, 50]


def test_masks(tmp_path):
    rng = np.random.default_rng(0)
    inside = rng.random((9, 14)) < 0.5
    more = {"kind": "mask", "mask": encode_png(inside)}
    found = mask_of(tmp_path, shape(points=[(20, 10), (33, 18)], **more))
    np.testing.assert_array_equal(found[10:19, 20:34], inside)
    assert found.sum() == inside.sum()
    found = mask_of(tmp_path, shape(points=[(-4, 36), (9, 44)], **more))  # partly outside
    np.testing.assert_array_equal(found[36:, :10], inside[:4, 4:])
    for broken in ("", "#", encode_png(np.ones((400, 400)))):
        with_it = shape(points=[(20, 10), (33, 18)], kind="mask", mask=broken)
        check_error(lambda with_it=with_it: mask_of(tmp_path, with_it), "x.json: a shape of 'cat' cannot be read")


def test_overlaps_holes_and_void(tmp_path):
    large, small = ((0, 0), (50, 0), (50, 30), (0, 30)), ((10, 10), (20, 10), (20, 20), (10, 20))
    for order in (1, -1):
        both = [shape("cat", large), shape("dog", small)][::order]
        found = mask_of(tmp_path, *both)
        assert found[15, 15] == 2
        assert found[5, 5] == 1
    assert mask_of(tmp_path, shape("cat", large), shape("_background_", small))[15, 15] == 0
    assert mask_of(tmp_path, shape("cat", large), shape("__ignore__", small))[15, 15] == 255
    assert mask_of(tmp_path, shape("cat", large), shape("bird", small))[15, 15] == 0


def test_versions_and_sizes(tmp_path):
    expected = mask_of(tmp_path, shape())
    old = {key: value for key, value in shape().items() if key in ("label", "points")} | {"line_color": None}
    np.testing.assert_array_equal(mask_of(tmp_path, old, lineColor=[0, 255, 0, 128], version="3.6"), expected)
    for more in ({"imageHeight": None, "imageWidth": None}, {"imageData": "AAAA"}, {"imagePath": "../other/y.png"}):
        np.testing.assert_array_equal(mask_of(tmp_path, shape(), **more), expected)
    check_error(lambda: mask_of(tmp_path, shape(), imageHeight=20, imageWidth=30), "20x30 pixels: both must have")


def test_layouts(tmp_path):
    for split in ("train", "val"):
        for k in range(3):
            put_image(tmp_path / "beside" / split / f"{split}{k}.jpg", SIZE)
            put_image(tmp_path / "apart/images" / split / f"{k}.jpg", SIZE)
            put_labelme(tmp_path / "apart/labels" / split / f"{k}.json", [shape()])
            put_image(tmp_path / "flat/photos" / f"{split}{k}.png", SIZE)
            put_image(tmp_path / "flat/masks" / f"{split}{k}.png", SIZE)
            put_labelme(tmp_path / "flat/json" / f"{split}{k}.json", [shape("dog" if k else "cat")])
        for k in range(2):
            put_labelme(tmp_path / "beside" / split / f"{split}{k}.json", [shape()])
    for settings in ({}, {"annotations": "{split}"}, {"annotations": "."}):
        with collect_problems() as problems:
            dataset = Folder(tmp_path / "beside", "val", **settings)
        assert names(dataset) == ["val0", "val1"]
        assert dataset.classes == ("background", "cat")
        assert [problem.file for problem in problems] == [str(tmp_path / "beside/val/val2.jpg")]
    for settings in ({}, {"annotations": "labels"}, {"annotations": "labels/{split}", "images": "images/{split}"}):
        dataset = Folder(tmp_path / "apart", "train", **settings)
        assert [sample.image.parent.name for sample in dataset.samples] == ["train"] * 3
    dataset = Folder(tmp_path / "flat", "train", annotations="json", val_ratio=1e-9)
    assert dataset.classes == ("background", "cat", "dog")
    assert len(dataset) == 6
    assert {sample.image.parent.name for sample in dataset.samples} == {"photos"}
    check_error(lambda: Folder(tmp_path / "flat", "train", annotations="json"), "is for all splits")


def test_labels_of_a_file(tmp_path):
    put_image(tmp_path / "x.jpg", SIZE)
    put_labelme(tmp_path / "x.json", [shape("dog")])
    put_lines(tmp_path / "labels.txt", "__ignore__", "_background_", "dog", "cat")
    assert Folder(tmp_path, "train", annotations=".", val_ratio=1e-9).classes == ("_background_", "dog", "cat")


def test_the_image_of_another_name(tmp_path):
    put_image(tmp_path / "photo.jpg", SIZE)
    put_labelme(tmp_path / "annotated.json", [shape()], imagePath="..\\photos\\photo.jpg")
    (sample,) = Folder(tmp_path, "train", annotations=".", val_ratio=1e-9).samples
    assert sample.image == tmp_path / "photo.jpg"


@pytest.mark.parametrize("content", [{}, [], {"shapes": {}}, {"shapes": [1]}, {"shapes": [{"points": []}]}])
def test_other_json_files_are_refused(tmp_path, content):
    put_image(tmp_path / "x.jpg", SIZE)
    put_image(tmp_path / "y.jpg", SIZE)
    put_labelme(tmp_path / "y.json", [shape()])
    put_json(tmp_path / "x.json", content)
    put_json(tmp_path / "settings.json", content)  # of another program
    dataset = Folder(tmp_path, "train", annotations=".", val_ratio=1e-9)
    assert names(dataset) == ["x", "y"]
    assert dataset.classes == ("background", "cat")
    check_error(lambda: dataset[0], "x.json is no labelme file")


def test_damaged_shapes(tmp_path):
    for points in ([["a", 1]] * 3, [1, 2, 3]):
        damaged = {**shape(), "points": points}
        check_error(lambda damaged=damaged: mask_of(tmp_path, damaged), "x.json: a shape of 'cat' cannot be read")
    kinds = {
        "annotation without an area": [shape(points=[(1, 1), (9, 9)]), shape(points=[]), shape(points=[(99, 99)] * 3)],
        "shape of an unknown type, which is left out": [shape(kind="cuboid")],
        "annotation that is partly outside its image": [shape(points=[(-9e9, 1), (9e9, 9), (9, 30)])],
        "line or point, filled with the width that labelme gives it": [shape(points=[(9, 9)], kind="point")],
        "annotation of a category that is no class": [shape("bird")],
    }
    for kind, shapes in kinds.items():
        for each in shapes:
            with collect_problems() as problems:
                mask_of(tmp_path, each)
            assert kind in {problem.kind for problem in problems}
