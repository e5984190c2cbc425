"""Datasets with layouts of their own: miniature trees of all layouts; values, splits, recognition, published counts."""

import pytest
from dataset_files import check_error, make, names, put_image, put_lines, put_mask, voc_tree

from segframe.data import ADE20K, VOC, CamVid, Cityscapes, COCOStuff, Folder, OxfordPet, PascalContext, Shapes
from segframe.data.file_listing import collect_problems
from segframe.data.inspection import quick_check

RELEASES = [ADE20K, CamVid, Cityscapes, COCOStuff, OxfordPet, PascalContext, VOC]


def values(dataset):
    return {item["name"]: item["mask"].unique().tolist() for item in dataset}


# ---- Cityscapes


def cityscapes(root, images="leftImg8bit", masks="gtFine", kinds=("labelIds",)):
    """Two cities of train, one of val and test; masks of the first 16 labelIds, or of void and 15 trainIds."""
    for part, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("test", "berlin")):
        name = f"{city}_000000_000019"
        put_image(root / images / part / city / f"{name}_leftImg8bit.png")
        for kind in ("color", "instanceIds", *kinds):
            row = [0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 33]
            row = [255, *range(14), 18] if kind == "labelTrainIds" else row
            put_mask(root / masks / part / city / f"{name}_gtFine_{kind}.png", row if kind in kinds else 99)
        (root / masks / part / city / f"{name}_gtFine_polygons.json").write_text("{}")


CLASS_ROW = [255, *range(14), 18]


@pytest.mark.parametrize(
    ("home", "images", "masks", "kinds"),
    [
        (".", "leftImg8bit", "gtFine", ("labelIds",)),
        (".", "leftImg8bit", "gtFine", ("labelTrainIds",)),
        (".", "leftImg8bit_trainvaltest/leftImg8bit", "gtFine_trainvaltest/gtFine", ("labelIds",)),
    ],
)
def test_cityscapes_layouts(tmp_path, home, images, masks, kinds):
    cityscapes(tmp_path / home, images, masks, kinds)
    dataset = make("cityscapes", tmp_path)("trainval")
    assert names(dataset) == [f"{city}_000000_000019" for city in ("aachen", "ulm", "lindau")]
    assert all(item["mask"][0].tolist() == CLASS_ROW for item in dataset)
    assert Cityscapes.looks_like(tmp_path)


def test_cityscapes_label_ids_come_before_train_ids(tmp_path):
    cityscapes(tmp_path, kinds=("labelIds", "labelTrainIds"))
    for path in tmp_path.rglob("*_labelTrainIds.png"):
        put_mask(path, 3)
    assert Cityscapes(tmp_path, "val")[0]["mask"][0].tolist() == CLASS_ROW
    (tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png").unlink()
    assert Cityscapes(tmp_path, "train")[0]["mask"].unique().tolist() == [3]


def test_cityscapes_coarse_masks(tmp_path):
    name = "augsburg_000000_000000"
    put_image(tmp_path / f"leftImg8bit_trainextra/leftImg8bit/train_extra/augsburg/{name}_leftImg8bit.png")
    put_mask(tmp_path / f"gtCoarse/gtCoarse/train_extra/augsburg/{name}_gtCoarse_labelIds.png", 26)
    assert values(Cityscapes(tmp_path, "train_extra")) == {name: [13]}
    assert Cityscapes.looks_like(tmp_path)


def test_cityscapes_mistakes(tmp_path):
    check_error(lambda: Cityscapes(tmp_path, "train"), f"no leftImg8bit/train under {tmp_path}", "gtFine_trainvaltest")
    cityscapes(tmp_path, kinds=())
    check_error(lambda: Cityscapes(tmp_path, "val"), "has no mask", "needs *_gtFine_labelIds.png")
    check_error(lambda: Cityscapes(tmp_path, "test"), "test split", "dummies", "scripts/predict.py", "submission=true")
    check_error(lambda: Cityscapes(tmp_path, "valid"), "no split 'valid'", "data.val_split=val")
    mask = tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png"
    put_mask(mask, [18, 19] * 8)
    check_error(lambda: Cityscapes(tmp_path, "val")[0], mask, "holds the value 19", "0 to 18")
    put_mask(tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", 77)
    check_error(lambda: Cityscapes(tmp_path, "val")[0], "holds the value 77", "19 classes")


# ---- ADE20K


@pytest.mark.parametrize("home", ["ADEChallengeData2016", ".", "ade/ADEChallengeData2016"])
def test_ade20k_layouts(tmp_path, home):
    for part, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        put_image(tmp_path / home / f"images/{part}/{name}.jpg")
        put_mask(tmp_path / home / f"annotations/{part}/{name}.png", [0, 1, 2, 150] * 4)
    put_lines(tmp_path / home / "sceneCategories.txt", "ADE_train_00000001 airport_terminal")
    root = tmp_path / "ade" if home.startswith("ade/") else tmp_path
    dataset = make("ade20k", root)("train")
    assert values(dataset) == {"ADE_train_00000001": [0, 1, 149, 255]}
    assert [dataset.classes[k] for k in (0, 1, 149)] == ["wall", "building", "flag"]
    assert names(ADE20K(root, "val")) == ["ADE_val_00000001"]
    assert ADE20K.looks_like(root)


def test_ade20k_mistakes(tmp_path):
    check_error(lambda: ADE20K(tmp_path, "train"), f"no images/training under {tmp_path}", "ADEChallengeData2016.zip")
    put_image(tmp_path / "images/training/a.jpg")
    check_error(lambda: ADE20K(tmp_path, "train"), "no annotations/training")
    put_mask(tmp_path / "annotations/training/a.png", 151)
    check_error(lambda: ADE20K(tmp_path, "train")[0], "value 151", "150 classes", "data=folder")
    put_mask(tmp_path / "annotations/training/a.png", 255)
    check_error(lambda: ADE20K(tmp_path, "train")[0], "a.png holds 255", "if 1 was subtracted", "data=folder")
    assert not ADE20K.looks_like(tmp_path)  # the names are not ADE20K's


# ---- COCO-Stuff


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}", "annotations/{}"),
        ("{}", "stuffthingmaps_trainval2017/{}"),
        ("coco_stuff164k/images/{}", "coco_stuff164k/annotations/{}"),
        ("images/{}", "annotations/stuffthingmaps/{}"),
        ("{}", "{}"),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_coco_stuff_layouts(tmp_path, images, masks, raw):
    for part in ("train2017", "val2017"):
        put_image(tmp_path / images.format(part) / "000000000009.jpg")
        row, end = ([0, 10, 12, 181], "") if raw else ([0, 10, 11, 170], "_labelTrainIds")
        put_mask(tmp_path / masks.format(part) / f"000000000009{end}.png", [*row, 255, 255, 255, 255] * 2)
    put_lines(tmp_path / "annotations/instances_train2017.json", "{}")
    dataset = make("coco_stuff", tmp_path)("train")
    assert values(dataset) == {"000000000009": [0, 10, 11, 170, 255]}
    assert [dataset.classes[k] for k in (0, 10, 80, 170)] == ["person", "fire hydrant", "banner", "wood"]
    assert names(COCOStuff(tmp_path, "val")) == ["000000000009"]
    assert COCOStuff.looks_like(tmp_path)


def test_coco_stuff_raw_values_come_before_train_ids(tmp_path):
    put_image(tmp_path / "images/val2017/1.jpg")
    put_mask(tmp_path / "annotations/val2017/1.png", 181)
    put_mask(tmp_path / "annotations/val2017/1_labelTrainIds.png", 5)
    assert values(COCOStuff(tmp_path, "val")) == {"1": [170]}


def test_coco_stuff_mistakes(tmp_path):
    put_image(tmp_path / "val2017/1.jpg")
    put_lines(tmp_path / "annotations/instances_val2017.json", "{}")
    assert not COCOStuff.looks_like(tmp_path)
    check_error(lambda: COCOStuff(tmp_path, "val"), "no stuffthingmaps/val2017", "stuffthingmaps_trainval2017.zip")
    check_error(lambda: COCOStuff(tmp_path, "train"), f"no images/train2017 under {tmp_path}")
    put_mask(tmp_path / "stuffthingmaps/val2017/1.png", 11)  # the id 12, of which there are no pixels
    check_error(lambda: COCOStuff(tmp_path, "val")[0], "holds the value 11", "171 classes")
    put_mask(tmp_path / "stuffthingmaps/val2017/1.png", 0)
    put_mask(tmp_path / "stuffthingmaps/val2017/2.png", 0)
    with collect_problems() as problems:
        COCOStuff(tmp_path, "val")
    assert [problem.kind for problem in problems] == ["mask without an image"]


# ---- PASCAL Context


def pascal_context(home):
    voc_tree(home)
    for name in "abv":
        put_mask(home / f"SegmentationClassContext/{name}.png", [0, 1, 59, 2] * 4)
    put_lines(home / "ImageSets/SegmentationContext/train.txt", "a", "b")
    put_lines(home / "ImageSets/SegmentationContext/val.txt", "v")


@pytest.mark.parametrize("home", ["VOCdevkit/VOC2010", "VOC2010", "."])
def test_pascal_context(tmp_path, home):
    pascal_context(tmp_path / home)
    without, with_background = make("pascal_context", tmp_path)("train"), make("pascal_context_60", tmp_path)("val")
    assert values(without) == {"a": [0, 1, 58, 255], "b": [0, 1, 58, 255]}
    assert values(with_background) == {"v": [0, 1, 2, 59]}
    assert (len(without.classes), len(with_background.classes)) == (59, 60)
    assert with_background.classes == ("background", *without.classes)
    assert with_background.palette[1:] == without.palette
    assert PascalContext.looks_like(tmp_path)


def test_pascal_context_mistakes(tmp_path):
    check_error(lambda: PascalContext(tmp_path, "train"), f"no VOC2010/JPEGImages under {tmp_path}", "03-May-2010")
    voc_tree(tmp_path)
    assert not PascalContext.looks_like(tmp_path)
    check_error(lambda: PascalContext(tmp_path, "train"), "SegmentationContext/train.txt does not exist", "mmsegm")


# ---- all


@pytest.mark.parametrize("release", RELEASES)
def test_classes_and_palettes(release):
    assert len(set(release.classes)) == len(release.classes) == len(release.palette)
    assert all(name == name.strip() and name for name in release.classes)
    assert set(release.published) <= set(release.splits)


def test_other_folders_look_like_no_release(tmp_path):
    for part in ("train", "val"):
        put_image(tmp_path / "images" / part / "a.jpg")
        put_mask(tmp_path / "masks" / part / "a.png")
    for release in (*RELEASES, Folder, Shapes):
        assert not release.looks_like(tmp_path)
        assert not release.looks_like(tmp_path / "nowhere")


def test_voc_and_camvid_are_recognized(tmp_path):
    voc_tree(tmp_path / "VOCdevkit/VOC2012")
    assert not VOC.looks_like(tmp_path)  # a tool's: the names are others
    put_lines(tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", "2007_000032")
    assert VOC.looks_like(tmp_path)
    for part in ("train", "trainannot", "val", "valannot"):
        put_image(tmp_path / "camvid" / part / "0001TP_006690.png")
    assert CamVid.looks_like(tmp_path / "camvid")
    (tmp_path / "camvid").rename(tmp_path / "CamVid")
    assert CamVid.looks_like(tmp_path)
    assert names(CamVid(tmp_path, "train")) == ["0001TP_006690"]
    put_image(tmp_path / "other/images/train/0001TP_006690.png")
    put_mask(tmp_path / "other/masks/train/0001TP_006690.png")
    assert CamVid.looks_like(tmp_path / "other")


def test_a_number_of_images_that_is_not_the_published_one(run, tmp_path):
    cityscapes(tmp_path / "city")
    warnings = quick_check.quick_check(Cityscapes(tmp_path / "city", "train"), Cityscapes(tmp_path / "city", "val"))
    assert warnings[0].startswith("train: 2 images, published are 2,975: bring the whole release")
    assert any(line.startswith("val: 1 image, published are 500") for line in warnings)
    result = run("scripts/check_data.py", "data=cityscapes", "data.root=city", "data.num_workers=0")
    assert result.code == 0, result.out
    assert "2 images, published are 2,975" in result.out
    assert "are dummies" in result.out  # the test split is not checked


def test_the_published_number_is_no_finding(tmp_path, monkeypatch):
    cityscapes(tmp_path)
    monkeypatch.setattr(Cityscapes, "published", {"train": 2, "val": 1})
    warnings = quick_check.quick_check(Cityscapes(tmp_path, "train"), Cityscapes(tmp_path, "val"))
    assert not any("published are" in line for line in warnings)
