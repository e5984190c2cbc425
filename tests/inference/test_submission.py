"""Predictions with the mask values of the data set that a network was trained on."""

import re

import numpy as np
import pytest
from conftest import composed
from omegaconf import OmegaConf
from PIL import Image
from small_networks import save_checkpoint, save_image

import segframe
from segframe.config.instantiate import instantiate
from segframe.data import ADE20K, VOC, CamVid, Cityscapes, COCOStuff, PascalContext
from segframe.data.file_listing import Sample
from segframe.data.label_map import voc_palette
from segframe.errors import UserError
from segframe.inference.submission import Submission
from segframe.models.weights.checkpoint import CheckpointMetadata

SMALL = ("backbone=resnet18", "backbone.weights=null", "head=fcn")
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
RELEASES = {
    "cityscapes": (Cityscapes.classes, LABEL_IDS),
    "ade20k": (ADE20K.classes, range(1, 151)),
    "coco_stuff": (COCOStuff.classes, [*range(11), *range(12, 25)]),
    "pascal_context": (PascalContext.classes, range(1, 60)),
    "pascal_context_60": (("background", *PascalContext.classes), range(60)),
    "oxford_pet": (("background", "pet"), [2, 1]),
    "oxford_pet data.dataset.task=trimap": (("pet", "background", "border"), [1, 2, 3]),
    "oxford_pet data.dataset.border=pet": (("background", "pet"), [2, 1]),
    "voc": (VOC.classes, range(21)),
    "camvid": (CamVid.classes, range(11)),
}


def metadata(words, classes, palette=None):
    config = OmegaConf.to_container(composed(*words.split()), resolve=False)
    return CheckpointMetadata({"data": config["data"]}, tuple(classes), palette or voc_palette(len(classes)))


@pytest.mark.parametrize("name", RELEASES)
def test_values_of_releases(name):
    classes, values = RELEASES[name]
    found = Submission(metadata(f"data={name}", classes), ())
    assert found.values[: len(values)].tolist() == list(values)
    mask = found.encode(np.arange(len(classes), dtype=np.uint8)[None])
    assert mask.mode == ("P" if name == "voc" else "L")
    assert np.array_equal(np.array(mask)[0], found.values)


@pytest.mark.parametrize("name", RELEASES)
def test_reading_undoes_submissions(name, tmp_path, monkeypatch):
    """A mask that is written as a submission is read as the classes it was made of."""
    classes, _ = RELEASES[name]
    expected = np.random.default_rng(0).integers(0, len(classes), (9, 30), np.uint8)
    Submission(metadata(f"data={name}", classes), ()).encode(expected).save(tmp_path / "m.png")
    make_dataset = instantiate(composed(*f"data={name}".split()).data.dataset, "data.dataset")
    release = make_dataset.func
    monkeypatch.setattr(release, "find", lambda self: [Sample("m", tmp_path / "m.png", tmp_path / "m.png")])
    dataset = make_dataset(root=tmp_path, split=release.splits[-1])
    assert np.array_equal(dataset.read_mask(0), expected)


FOLDER = {
    "'data.dataset.label_map={0: ignore, 1: a, 2: b}'": [1, 2],
    "'data.dataset.label_map={1000: a, 7: 1, other: ignore}'": [1000, 7],
    "data.dataset.binary=true": [0, 255],
    "": [0, 1],
}


@pytest.mark.parametrize("words", FOLDER)
def test_values_of_folders(words, tmp_path):
    settings = {"_target_": "segframe.data.Folder", "_partial_": True, "classes": ["a", "b"]}
    if words:
        key, _, value = words.strip("'").removeprefix("data.dataset.").partition("=")
        settings[key] = OmegaConf.to_container(OmegaConf.create(f"x: {value}"))["x"]
    encoding = Submission(CheckpointMetadata({"data": {"dataset": settings}}, ("a", "b"), voc_palette(2)), ())
    assert encoding.values.tolist() == FOLDER[words]
    encoding.encode(np.array([[0, 1]], np.uint8)).save(tmp_path / "m.png")
    assert np.array(Image.open(tmp_path / "m.png")).tolist() == [FOLDER[words]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "names no dataset"),
        ({"data": {"dataset": {"_target_": "segframe.data.Shapes"}}}, "Shapes are generated"),
        ({"data": {"dataset": {"_target_": "os.system"}}}, r"no part of segframe.*trust=\[os\.system\]"),
        ({"label_map": {3: "a", 4: "a", 5: "b"}}, "gives 2 values to a"),
        ({"label_map": {"#ff0000": "a"}}, "gives a colour to a"),
        ({"label_map": {0: "ignore"}}, "gives no value to a"),
        ({"data": {"dataset": {"_target_": "segframe.data.OxfordPet"}}}, "gives no value to b"),
        ({"data": {"dataset": {"_target_": "segframe.data.PascalContext"}}}, "none of the 2 classes"),
        ({"classes": "_classes.csv"}, r"data\.dataset\.classes=_classes\.csv: the masks' values are in that file"),
    ],
)
def test_data_without_such_values(config, message):
    if "data" not in config and config:
        config = {"data": {"dataset": {"_target_": "segframe.data.Folder", "classes": ["a", "b"], **config}}}
    with pytest.raises(UserError, match=message):
        Submission(CheckpointMetadata(config, ("a", "b"), voc_palette(2)), ())


def test_programs_and_python_write_the_same(run, tmp_path):
    save_checkpoint(tmp_path, *SMALL, "data=cityscapes", classes=Cityscapes.classes)
    name = "berlin/berlin_000000_000019_leftImg8bit"
    (tmp_path / "in").mkdir()
    save_image(tmp_path / "in" / f"{name}.png")
    result = run(
        "scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=out", "submission=true", "accelerator=cpu"
    )
    assert result.code == 0, result.out
    found = np.array(Image.open(tmp_path / f"out/submission/{name}.png"))
    index = np.array(Image.open(tmp_path / f"out/index/{name}.png"))
    assert np.array_equal(found, np.array(LABEL_IDS)[index])
    mask = segframe.load(tmp_path / "x.ckpt", device="cpu")(tmp_path / "in" / f"{name}.png").submission()
    assert np.array_equal(mask, found)


def test_refusals_of_the_program(run, tmp_path):
    save_checkpoint(tmp_path, *SMALL, "data=shapes")
    save_image(tmp_path / "a.png")
    words = ("scripts/predict.py", "checkpoint=x.ckpt", "input=a.png", "output=out", "accelerator=cpu")
    error = run(*words, "submission=true").error
    assert re.search(r"submission=true: Shapes are generated.*; leave it out, index/ holds class indices", error)
    assert "did you mean submission?" in run(*words, "submision=true").error
