"""COCO files as masks: the pixels of pycocotools, the exports of tools, problems."""

import functools
import json
import operator
import pickle
import sys

import numpy as np
import pytest
from annotation_files import SIZE, SQUARE, annotation, put_coco, put_json, put_roboflow
from conftest import composed
from dataset_files import check_error, names, put_image, put_lines
from pycocotools import mask as reference
from pycocotools.coco import COCO

from segframe.data import Folder
from segframe.data.annotations import rle
from segframe.data.build import build_datasets
from segframe.data.cache_setup import add_caches
from segframe.data.file_listing import collect_problems
from segframe.errors import UserError

ONE = {"annotations": "a.json", "val_ratio": 0.5}


def open_one(root, **settings):
    """All images of a.json: those of training, as the ratio is tiny."""
    return Folder(root, "train", **{**ONE, "val_ratio": 1e-9, **settings})


def as_rle(mask, compressed):
    found = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"counts": found["counts"].decode(), "size": list(mask.shape)}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(int), prepend=0)).tolist()
    return {"counts": np.diff([0, *edges, flat.size]).tolist(), "size": list(mask.shape)}


def random_annotations(rng, count):
    for k in range(count):
        category = [3, 7][k % 2]
        if k % 4 < 2:
            centre, radius = rng.uniform(0, SIZE[::-1]), rng.uniform(2, 25)
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            polygons = [points.round(2 if k % 8 else 5).ravel().tolist()]
            yield annotation(1, category, [*polygons, SQUARE] if k % 3 == 0 else polygons)
        else:
            yield annotation(1, category, as_rle(rng.random(SIZE) < rng.uniform(0, 0.1), k % 4 == 2), iscrowd=k % 2)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pixels_are_those_of_pycocotools(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for _ in range(10):
        put_coco(tmp_path / "a.json", ["x.jpg"], list(random_annotations(rng, 9)))
        coco = COCO(tmp_path / "a.json")
        expected = np.zeros(SIZE, np.uint8)
        found = [(coco.annToMask(each), each["category_id"]) for each in coco.dataset["annotations"]]
        for mask, category in sorted(found, key=lambda both: -int(both[0].sum())):  # smaller ones on top
            expected[mask > 0] = {3: 1, 7: 2}[category]
        dataset = open_one(tmp_path)
        assert dataset.classes == ("background", "cat", "dog")
        np.testing.assert_array_equal(dataset[0]["mask"], expected)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[0]["mask"], expected)
    capsys.readouterr()


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, 1])
def test_run_lengths_are_decoded_as_by_pycocotools(share):
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (1, 9), (7, 1), (23, 31), (300, 2)):
        mask = rng.random((height, width)) < share
        counts = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        top, left, inside = rle.decode(counts, height, width)
        found = np.zeros_like(mask)
        found[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        np.testing.assert_array_equal(found, mask)
        for damaged in (counts[:-1], counts + b"1", b"", b"\xff", counts[:-1] + b"o"):
            with pytest.raises(ValueError, match=r"runs|counts"):
                rle.decode(damaged, height, width)


def test_smaller_regions_are_on_top_and_of_equal_ones_the_later(tmp_path):
    large, small = [0, 0, 50, 0, 50, 30, 0, 30], [10, 10, 20, 10, 20, 20, 10, 20]
    for order in ((3, 7), (7, 3)):
        found = [annotation(1, category, [large if category == 3 else small]) for category in order]
        put_coco(tmp_path / "a.json", ["x.jpg"], found)
        mask = open_one(tmp_path)[0]["mask"]
        assert mask[15, 15] == 2
        assert mask[5, 5] == 1
        put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(1, category, [small]) for category in order])
        assert open_one(tmp_path)[0]["mask"][15, 15] == {3: 1, 7: 2}[order[1]]


def test_classes_may_be_chosen_merged_and_left_out(tmp_path):
    right = [40, 5, 50, 5, 50, 20, 40, 20]
    put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(), annotation(1, 7, [right])])

    def values(**settings):
        mask = open_one(tmp_path, **settings)[0]["mask"]
        return [int(mask[10, 10]), int(mask[10, 45]), int(mask[0, 0])]

    assert values() == [1, 2, 0]
    assert values(classes=["background", "dog"]) == [0, 1, 0]
    assert values(classes=["cat", "dog"]) == [0, 1, 255]  # without background what is not annotated is void
    assert values(classes=["background", "dog"], label_map={"cat": "ignore"}) == [255, 1, 0]
    assert values(classes=["background", "animal"], label_map={"cat": "animal", "dog": 1}) == [1, 1, 0]
    assert values(classes=["background", "dog"], label_map={"other": "ignore"}) == [255, 1, 0]
    check_error(lambda: values(classes=["background", "dogg"]), "'dogg' is no category", "did you mean 'dog'?")
    check_error(lambda: values(classes=["background", "bird"]), "no class is a category", "cat, dog")
    check_error(lambda: values(classes=["background", "cat"], label_map={"dgo": "ignore"}), "did you mean 'dog'?")
    check_error(lambda: values(masks="masks"), "data.dataset.masks=masks")


def test_roboflow(tmp_path):
    put_roboflow(tmp_path)
    for settings in ({}, {"annotations": "{split}/_annotations.coco.json"}):
        dataset = Folder(tmp_path, "valid", **settings)
        assert dataset.classes == ("background", "cat", "dog")
        assert dataset.splits == ("test", "train", "valid")
        assert [np.unique(item["mask"]).tolist() for item in dataset] == [[0, 2], [0, 1]]
    check_error(lambda: Folder(tmp_path, "val"), "type data.val_split=valid")
    one = "train/_annotations.coco.json"
    check_error(lambda: Folder(tmp_path, "train", annotations=one), "is for all splits", "val_ratio")
    check_error(lambda: Folder(tmp_path, "train", val_ratio=0.2), "type data.dataset.annotations={split}/_annot")


@pytest.mark.parametrize(
    ("listed", "place"),
    [
        ("x.jpg", "images"),  # CVAT
        ("images/x.jpg", "images"),  # Label Studio
        ("images\\x.jpg", "images"),
        ("/home/someone/data/images/x.jpg", "photos"),
        ("x.png", "images"),  # saved anew
        ("a.b.jpg", "a.b folder"),
    ],
)
def test_images_are_found(tmp_path, listed, place):
    put_coco(tmp_path / "annotations/instances_default.json", [], [annotation()])
    content = json.loads((tmp_path / "annotations/instances_default.json").read_text())
    content["images"] = [{"id": 1, "file_name": listed, "height": SIZE[0], "width": SIZE[1]}]
    put_json(tmp_path / "annotations/instances_default.json", content)
    put_image(tmp_path / place / ("a.b.jpg" if listed == "a.b.jpg" else "x.jpg"), SIZE)
    put_image(tmp_path / "masks" / "other.jpg", SIZE)
    dataset = Folder(tmp_path, "train", annotations="annotations/instances_default.json", val_ratio=1e-9)
    assert names(dataset) == [listed.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]]
    assert dataset[0]["mask"].sum() > 0


def test_images_of_one_name_are_those_of_the_split(tmp_path):
    for split in ("train", "val"):
        put_coco(tmp_path / f"annotations/{split}.json", ["1.jpg"], [annotation()], images=tmp_path / "images" / split)
    for split in ("train", "val"):
        (sample,) = Folder(tmp_path, split, annotations="annotations/{split}.json").samples
        assert sample.image == tmp_path / "images" / split / "1.jpg"
    (tmp_path / "images/train").rename(tmp_path / "images/a")
    (tmp_path / "images/val").rename(tmp_path / "images/b")
    check_error(lambda: Folder(tmp_path, "val", annotations="annotations/{split}.json"), "both may be 1.jpg")
    (sample,) = Folder(tmp_path, "val", annotations="annotations/{split}.json", images="images/b").samples
    assert sample.image == tmp_path / "images/b/1.jpg"


def test_lists_and_val_ratio_divide_one_file(tmp_path):
    put_coco(tmp_path / "a.json", [f"{k}.jpg" for k in range(20)], [annotation(k) for k in range(1, 21)])
    parts = [names(Folder(tmp_path, split, **ONE)) for split in ("train", "val")]
    assert sorted(functools.reduce(operator.iadd, parts, [])) == sorted(str(k) for k in range(20))
    put_lines(tmp_path / "t.txt", "3", "1.jpg")
    put_lines(tmp_path / "v.txt", "2")
    splits = {"train": "t.txt", "val": "v.txt"}
    assert names(Folder(tmp_path, "train", annotations="a.json", splits=splits)) == ["3", "1"]
    put_lines(tmp_path / "v.txt", "77")
    check_error(lambda: Folder(tmp_path, "val", annotations="a.json", splits=splits), "v.txt, line 1", "no image")


def test_sizes_that_are_not_given_are_those_of_the_images(tmp_path):
    put_coco(tmp_path / "a.json", ["x.jpg"], [annotation()])
    content = json.loads((tmp_path / "a.json").read_text())
    del content["images"][0]["height"], content["images"][0]["width"]
    put_json(tmp_path / "a.json", content)
    assert open_one(tmp_path)[0]["mask"].shape == SIZE
    content["images"][0] |= {"height": 20, "width": 30}
    put_json(tmp_path / "a.json", content)
    check_error(lambda: open_one(tmp_path)[0], "a.json: x.jpg 20x30 pixels: both must have the same size")
    content["images"][0] |= {"height": 1 << 20, "width": 1 << 20}
    put_json(tmp_path / "a.json", content)
    check_error(lambda: open_one(tmp_path)[0], "correct its height and width")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "cannot be read as JSON"),
        ("[]", "holds no object"),
        ("{}", "no COCO file of instances"),
        ('{"images": [], "annotations": [], "categories": [{"id": [1], "name": "a"}]}', "no COCO file"),
    ],
)
def test_other_json_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    check_error(lambda: open_one(tmp_path), tmp_path / "a.json", message)


def test_damaged_segmentations(tmp_path):
    put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(1, 9)])
    check_error(lambda: open_one(tmp_path)[0], "category_id is none of the categories")
    counts = as_rle(np.ones(SIZE, bool), True)["counts"]
    for segmentation in ({"counts": counts[:-1], "size": SIZE}, {"counts": counts, "size": [40, 61]}):
        put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(segmentation=segmentation)])
        check_error(lambda: open_one(tmp_path)[0], "a.json: x.jpg", "export it again")
    # What holds no pixel is passed over, and reported by check_data; points may be far outside.
    far = [-1e30, -1e30, 1e30, -1e30, 1e30, 1e30]
    for segmentation in ([], [[1, 2, 3, 4]], [["a"]], [[1, 2, 3]], [[float("nan")] * 6], {"size": [1]}, None, [far]):
        put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(segmentation=segmentation), annotation()])
        dataset = open_one(tmp_path)
        with collect_problems() as problems:
            dataset[0]
        assert {problem.kind for problem in problems} & {
            "annotation without an area",
            "annotation that is partly outside its image",
        }


def test_boxes_are_no_masks(tmp_path):
    put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(segmentation=[]), annotation(segmentation=None)])
    check_error(lambda: open_one(tmp_path), "a.json: its annotations are boxes", "export it for instance segmentation")


def test_other_forms_of_polygons(tmp_path):
    pairs = np.reshape(SQUARE, (-1, 2)).tolist()
    masks = []
    for segmentation in ([SQUARE], SQUARE, [pairs]):
        put_coco(tmp_path / "a.json", ["x.jpg"], [annotation(segmentation=segmentation)])
        masks.append(open_one(tmp_path)[0]["mask"])
    assert masks[0].sum() == masks[1].sum() == masks[2].sum() > 300


def test_a_cached_mask_is_read_again_if_its_annotations_change(tmp_path):
    def mask(k):
        dataset = open_one(tmp_path)
        add_caches([dataset], "disk", None)
        stamps = [dataset.stamp(k) for k in range(2)]
        return dataset[k]["mask"].clone(), dataset[k]["mask"].clone(), stamps

    put_coco(tmp_path / "a.json", ["x.jpg", "y.jpg"], [annotation(), annotation(2)])
    first, again, stamps = mask(0)
    assert (first == again).all()
    assert first.max() == 1
    put_coco(tmp_path / "a.json", ["x.jpg", "y.jpg"], [annotation(1, 7), annotation(2)])
    changed, again, others = mask(0)
    assert (changed == again).all()
    assert changed.max() == 2
    assert stamps[0] != others[0]
    assert stamps[1][2:] == others[1][2:]


def test_training_and_validation_must_have_the_same_classes(tmp_path):
    put_roboflow(tmp_path)
    content = json.loads((tmp_path / "valid/_annotations.coco.json").read_text())
    content["categories"].pop()
    content["annotations"].pop()
    put_json(tmp_path / "valid/_annotations.coco.json", content)
    config = composed("data=folder", f"data.root={tmp_path}", "data.val_split=valid")
    check_error(lambda: build_datasets(config), "different classes (dog)", "data.dataset.classes=[background,cat,dog]")


def test_the_extra_is_named_where_pycocotools_is_missing(tmp_path, monkeypatch):
    put_coco(tmp_path / "a.json", ["x.jpg"], [annotation()])
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match=r"segframe\[annotations\]"):
        open_one(tmp_path)[0]
