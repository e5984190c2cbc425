"""check_data with data.root alone: the layout is recognised, and the printed command trains on it."""

import shlex

import numpy as np
import pytest
from annotation_files import SIZE, annotation, encode_png, put_coco, put_labelme, put_roboflow, shape
from conftest import composed
from dataset_files import check_error, put_image, put_lines, put_mask, voc_tree
from PIL import Image

import segframe
from segframe.cli.argv import quote_paths
from segframe.config.instantiate import instantiate
from segframe.data.base import open_split
from segframe.data.recognition import recognize, typed
from segframe.errors import UserError

SMALL = (
    *("backbone=resnet18", "data.weights=null", "data.crop_size=32", "data.batch_size=2", "data.num_workers=0"),
    *("trainer.max_steps=1", "trainer.val_every_n_steps=1", "trainer.accelerator=cpu"),
)


def settings_of(root, *given):
    """The settings that are recognised; they compose, and every item of both splits is read."""
    settings = recognize(root, given).settings
    config = composed(*quote_paths([*settings, *given, f"data.root={root}"]))
    for split in (config.data.train_split, config.data.val_split):
        dataset = open_split(instantiate(config.data.dataset, "data.dataset"), config.data, split)
        assert len([*dataset])
    return settings


def put_pairs(folders, values, count=5, palette=None, suffix=".png"):
    images, masks = folders
    for k in range(count):
        put_image(images / f"{k}.jpg", SIZE)
        tiles = np.resize(np.asarray(values), SIZE + np.shape(values)[1:]).astype(np.uint8)
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles).save(masks / f"{k}{suffix}")


def command_of(run, root):
    """The words behind train.py of the command that check_data prints."""
    result = run("scripts/check_data.py", f"data.root={root}", "data.num_workers=0")
    assert result.code == 0, result.out
    (command,) = [line for line in result.out.splitlines() if line.startswith("  python train.py ")]
    return shlex.split(command)[2:], result.out


def put_photos(root):
    for k in range(12):
        put_image(root / f"{k}.jpg", SIZE)
        put_labelme(root / f"{k}.json", [shape("traffic light", kind="mask", mask=encode_png([[1]]))])


def test_roboflow_by_the_command_line(tmp_path, run):
    put_roboflow(tmp_path / "pets")
    words, printed = command_of(run, tmp_path / "pets")
    assert "COCO annotations in {split}/_annotations.coco.json, with the classes background, cat, dog" in printed
    given = [f"data.root={tmp_path / 'pets'}", "data.num_workers=0"]
    found = ["data.dataset.annotations={split}/_annotations.coco.json", "data.val_split=valid"]
    assert words == ["data=folder", *given, *found]


def test_labelme_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put_photos(tmp_path / "photos")
    report = segframe.check_data("data.root=photos", "data.num_workers=0")
    words = ["data=folder", "data.root=photos", "data.num_workers=0", "data.dataset.annotations=."]
    words += ["data.dataset.val_ratio=0.2", "data.dataset.classes=[background,traffic light]"]
    assert report.settings == words
    assert shlex.join(words) in capsys.readouterr().out
    assert "mask of a single class" not in {finding.what for finding in report.findings}


@pytest.mark.slow
def test_the_printed_command_trains(tmp_path, run):
    put_roboflow(tmp_path / "pets")
    put_photos(tmp_path / "photos")
    for root in (tmp_path / "pets", tmp_path / "photos"):
        result = run("train.py", *command_of(run, root)[0], *SMALL, f"output_dir={root}/run")
        assert result.code == 0, result.out
        assert (root / "run/result.json").exists()


def test_coco_in_other_layouts(tmp_path):
    for split in ("train", "val"):
        put_coco(
            tmp_path / f"a/annotations/instances_{split}2017.json",
            [f"{split}.jpg"],
            [annotation()],
            images=tmp_path / f"a/{split}2017",
        )
    (tmp_path / "a/annotations/captions_train2017.json").write_text('{"annotations": [{"image_id": 1}]}')
    pattern = "data.dataset.annotations=annotations/instances_{split}2017.json"
    assert settings_of(tmp_path / "a") == ["data=folder", pattern]
    images = [f"{k}.jpg" for k in range(20)]
    put_coco(tmp_path / "b/annotations/instances_default.json", images, [annotation()], images=tmp_path / "b/images")
    one = "data.dataset.annotations=annotations/instances_default.json"
    assert settings_of(tmp_path / "b") == ["data=folder", one, "data.dataset.val_ratio=0.2"]
    put_roboflow(tmp_path / "c", ["train"])
    one = "data.dataset.annotations=train/_annotations.coco.json"
    put_coco(tmp_path / "c/train/_annotations.coco.json", images, [annotation()])
    assert settings_of(tmp_path / "c") == ["data=folder", one, "data.dataset.val_ratio=0.2"]
    chosen = ("data.dataset.classes=[background,dog]", "data.dataset.val_ratio=0.5")
    assert settings_of(tmp_path / "c", *chosen) == ["data=folder", one]


RATIO = "data.dataset.val_ratio=0.2"
LAYOUTS = [
    ("images/{s}", "masks/{s}", []),
    ("{s}/images", "{s}/masks", []),
    ("{s}", "{s}_labels", []),
    ("JPEGImages", "SegmentationClass", [RATIO]),
    ("train/img", "train/gt", ["data.dataset.images=train/img", "data.dataset.masks=train/gt", RATIO]),
]


@pytest.mark.parametrize(("images", "masks", "expected"), LAYOUTS)
def test_folders_of_masks(tmp_path, images, masks, expected):
    for k, split in enumerate(("train", "val") if "{s}" in images else [""]):
        both = [tmp_path / each.replace("{s}", split) for each in (images, masks)]
        put_pairs(both, [0, 1, 2], count=20 - 5 * k)
    assert settings_of(tmp_path) == ["data=folder", *expected, "data.dataset.classes=[class_0,class_1,class_2]"]


def test_masks_beside_images_and_lists(tmp_path):
    for k in range(20):
        put_image(tmp_path / f"a/all/{k}.jpg", SIZE)
        put_mask(tmp_path / f"a/all/{k}_mask.png", [[0, 1] * (SIZE[1] // 2)], SIZE)
    assert "data.dataset.mask_suffix=_mask" in settings_of(tmp_path / "a")
    put_pairs((tmp_path / "b/images", tmp_path / "b/masks"), [0, 1])
    for split, numbers in (("train", "012"), ("val", "34")):
        put_lines(tmp_path / f"b/lists/{split}.txt", *numbers)
    assert "data.dataset.splits={train: lists/train.txt, val: lists/val.txt}" in settings_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], ["data.dataset.classes=[background,object]"]),
        ([0, 255], ["data.dataset.classes=[background,object]", "data.dataset.binary=true"]),
        ([0, 1, 2, 255], ["data.dataset.classes=[class_0,class_1,class_2]"]),
        (
            [0, 38, 75],
            ["data.dataset.classes=[class_0,class_38,class_75]", "data.dataset.label_map={0: 0, 38: 1, 75: 2}"],
        ),
        ([1, 2], ["data.dataset.classes=[class_1,class_2]", "data.dataset.label_map={1: 0, 2: 1}"]),
        (
            [[0, 0, 0], [128, 64, 128], [0, 0, 255]],
            ["data.dataset.classes=[class_0,class_1,class_2]", "data.dataset.palette=[[0,0,0],[0,0,255],[128,64,128]]"],
        ),
        ([[0, 0, 0], [255, 255, 255]], ["data.dataset.classes=[background,object]", "data.dataset.binary=true"]),
    ],
)
def test_classes_by_the_values_of_masks(tmp_path, values, expected):
    for split in ("train", "val"):
        put_pairs((tmp_path / "images" / split, tmp_path / "masks" / split), values, 2)
    assert settings_of(tmp_path) == ["data=folder", *expected]


def test_jpeg_masks_and_files_of_classes(tmp_path):
    half = np.repeat([0, 255], SIZE[0] * SIZE[1] // 2)
    for split in ("train", "val"):
        put_pairs((tmp_path / "a/images" / split, tmp_path / "a/masks" / split), half, 2, suffix=".jpg")
        put_pairs((tmp_path / "b/images" / split, tmp_path / "b/masks" / split), [0, 1], 2)
    assert settings_of(tmp_path / "a") == ["data=folder", "data.dataset.classes=[background,object]"]
    put_lines(tmp_path / "b/classes.txt", "soil", "crop")
    assert settings_of(tmp_path / "b") == ["data=folder", "data.dataset.classes=classes.txt"]
    put_lines(tmp_path / "b/labelmap.txt", "# label:color_rgb:parts:actions", "only:1,2,3::", "this:4,5,6::")
    put_mask(tmp_path / "b/masks/train/0.png", 2, SIZE)
    assert settings_of(tmp_path / "b") == ["data=folder", "data.dataset.classes=[class_0,class_1,class_2]"]


def test_named_datasets(tmp_path):
    voc_tree(tmp_path / "a/VOCdevkit/VOC2012")
    for name in ("train", "trainval", "val"):
        put_lines(tmp_path / f"a/VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt", "2007_000032")
    assert recognize(tmp_path / "a").settings == ["data=voc"]
    for split in ("train", "val"):
        put_image(tmp_path / f"b/{split}/0001TP_006690.png")
        put_mask(tmp_path / f"b/{split}annot/0001TP_006690.png")
    assert recognize(tmp_path / "b").settings == ["data=camvid"]


def test_what_is_not_recognised(tmp_path, run):
    check_error(lambda: recognize(tmp_path / "none"), "does not exist")
    (tmp_path / "a").mkdir()
    check_error(lambda: recognize(tmp_path / "a"), "no image, and no layout that is recognised", "COCO")
    put_image(tmp_path / "a/photos/x.jpg")
    check_error(lambda: recognize(tmp_path / "a"), "photos (1 images), and no layout")
    put_coco(tmp_path / "a/other.json", [], [annotation()])
    check_error(lambda: recognize(tmp_path / "a"), "and other.json", "lists 0 images")
    result = run("scripts/check_data.py", f"data.root={tmp_path / 'a'}")
    assert result.code
    assert "Traceback" not in result.out
    put_pairs((tmp_path / "b/images", tmp_path / "b/masks"), np.arange(0, 250, 2), 9)
    check_error(lambda: recognize(tmp_path / "b"), "no black and white mask")
    put_pairs((tmp_path / "b/images", tmp_path / "b/masks"), np.arange(0, 200, 3), 9)
    check_error(lambda: recognize(tmp_path / "b"), "67 values, too many for classes")
    put_pairs((tmp_path / "c/images", tmp_path / "c/masks"), [0, 1, 2], count=1)
    for k in range(1, 9):
        put_image(tmp_path / f"c/images/{k}.jpg", SIZE)
    check_error(lambda: recognize(tmp_path / "c"), "no layout that is recognised", "has no mask (7 of 8 have none)")
    put_pairs((tmp_path / "d/JPEGImages", tmp_path / "d/SegmentationObject"), [[0, 1, 2]])  # masks of instances
    check_error(lambda: recognize(tmp_path / "d"), "SegmentationObject (5 images)", "no layout that is recognised")
    put_image(tmp_path / "e/release_test/testing/0.jpg", SIZE)  # two words for splits
    check_error(lambda: recognize(tmp_path / "e"), "release_test/testing (1 images)", "no layout that is recognised")
    put_image(tmp_path / "f/0.jpg", SIZE)
    (tmp_path / "f/boxes.json").write_text('{"images": [')
    check_error(lambda: recognize(tmp_path / "f"), "and boxes.json, and no layout")


def test_names_as_they_are_typed():
    names = ["cat", "traffic light", "1", "null", 'a"b', "x,y", "Ü ö", "a[1]", "a: b", "-"]
    words = [f"data.dataset.classes=[{','.join(map(typed, names))}]", "data=folder", "data.root=x"]
    assert list(composed(*words).data.dataset.classes) == names


def test_a_split_with_a_missing_file_is_not_replaced_by_another(tmp_path, run):
    put_roboflow(tmp_path / "a")
    assert "data.dataset.annotations={split}/_annotations.coco.json" in settings_of(tmp_path / "a")
    lost = sorted((tmp_path / "a/train").glob("*.jpg"))[0]
    lost.unlink()
    assert "data.dataset.annotations={split}/_annotations.coco.json" in recognize(tmp_path / "a").settings
    result = run("scripts/check_data.py", f"data.root={tmp_path / 'a'}", "data.num_workers=0")
    assert result.code == 1
    assert "listed without an image" in result.out
    (tmp_path / "a/train/_annotations.coco.json").write_text("{")
    check_error(lambda: recognize(tmp_path / "a"), "train/_annotations.coco.json cannot be read as JSON")
    for split in ("val", "test"):
        put_pairs((tmp_path / f"b/{split}", tmp_path / f"b/{split}annot"), [0, 1, 2])
    check_error(lambda: recognize(tmp_path / "b"), "are test, val: none is for training")


def test_a_data_set_elsewhere(tmp_path):
    put_pairs((tmp_path / "x/y/SegNet/CamVid/train", tmp_path / "x/y/SegNet/CamVid/trainannot"), [0, 1, 2])
    for part in ("train", "trainannot"):
        folder = tmp_path / "x/y/SegNet/CamVid" / part
        for path in folder.iterdir():
            path.rename(folder / f"0001TP_{path.name}")
    home = tmp_path / "x/y/SegNet"
    assert recognize(home).settings == ["data=camvid"]
    for root in (tmp_path / "x", home / "CamVid/train"):
        check_error(lambda root=root: recognize(root), f"data.root={root}: ", "the data set camvid is in ")
    with pytest.raises(UserError) as error:
        recognize(tmp_path / "x")
    assert str(error.value).endswith(f", type data.root={home}")
    check_error(lambda: recognize(home / "CamVid/train/0001TP_0.jpg"), "it is a file; point data.root at its folder")


def test_data_sets_beside_the_own_images(tmp_path):
    for part in ("leftImg8bit", "gtFine"):
        put_image(tmp_path / f"old/city/{part}/train/aachen/a.png", SIZE)
    put_pairs((tmp_path / "images", tmp_path / "masks"), [0, 1, 2])
    assert settings_of(tmp_path)[0] == "data=folder"
    put_image(tmp_path / "old/mine/photos/0.jpg", SIZE)
    check_error(lambda: recognize(tmp_path / "old/mine"), "photos (1 images), and no layout that is recognised")


def test_training_images_beside_test_images_without_masks(tmp_path):
    put_pairs((tmp_path / "train/images", tmp_path / "train/masks"), [0, 1, 2])
    for k in range(5):
        put_image(tmp_path / f"test/images/{k}.jpg", SIZE)
    assert "data.dataset.images=train/images" in settings_of(tmp_path)
