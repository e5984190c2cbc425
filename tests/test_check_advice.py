"""What the check of a dataset advises about values that are no class: followed to the letter, it cures."""

import json
import re

import numpy as np
import pytest
import yaml
from conftest import SIZE
from PIL import Image
from test_data import complaint

from segframe.data import Folder
from segframe.data.inspection import quick_check
from segframe.data.label_map import LabelTable
from segframe.data.palettes import voc_palette

FOLDER = ("data=folder", "data.root=photos", "data.num_workers=0", "output_dir=out")
THREE, TWO = (f"data.dataset.classes=[{names}]" for names in ("ground,tree,car", "ground,car"))


def put_values(photos, *changes):
    """Of the masks of training and validation, each {class: value}."""
    for part, change in zip(("train", "val"), changes, strict=True):
        for path in (photos / "masks" / part).iterdir():
            mask = np.array(Image.open(path))
            for k, value in change.items():
                mask[np.array(Image.open(path)) == k] = value
            Image.fromarray(mask).save(path)


def errors(run, tmp_path, *words):
    """The cures of the errors that the program finds."""
    result = run("scripts/check_data.py", *FOLDER, *words)
    told = json.loads((tmp_path / "out/check_data.json").read_text())
    cures = [finding["cure"] for finding in told["findings"] if finding["severity"] == "error"]
    assert result.code == bool(cures), result.out
    return cures


@pytest.mark.parametrize(
    ("changes", "words", "lines"),
    [
        (({1: 77, 2: 99}, {}), [THREE], ["'data.dataset.label_map={77: ignore, 99: ignore}'"]),
        (({1: 77}, {2: 99}), [THREE], ["'data.dataset.label_map={77: ignore, 99: ignore}'"]),
        (
            ({1: 5, 2: 77}, {1: 5, 0: 99}),
            [THREE, "data.dataset.label_map={5: tree}"],
            ["'++data.dataset.label_map={5: 1, 77: ignore, 99: ignore}'"],
        ),
        (
            ({0: 5, 2: 77}, {}),
            [THREE, "data.dataset.label_map={5: 1}"],
            ["'++data.dataset.label_map={5: 1, 1: 1, 77: ignore}'"],
        ),
        (
            ({2: 3}, {}),
            [THREE, "data.dataset.label_map={9: ignore}"],
            ["'++data.dataset.label_map={9: ignore, 3: 255}'"],
        ),
        (
            ({0: 1, 1: 2, 2: 3}, {0: 1, 1: 2, 2: 3}),
            [THREE],
            ["'data.dataset.label_map={1: 0, 2: 1, 3: 2}'", "'data.dataset.label_map={3: 255}'"],
        ),
        (
            ({0: 1, 1: 2, 2: 3}, {0: 1, 1: 2, 2: 77}),
            [THREE],
            [
                "'data.dataset.label_map={1: 0, 2: 1, 3: 2, 77: ignore}'",
                "'data.dataset.label_map={3: 255, 77: ignore}'",
            ],
        ),
        (({1: 0, 2: 200}, {1: 0, 2: 200}), [TWO], ["'data.dataset.label_map={200: 1}'"]),
        (
            ({0: 0, 1: 255, 2: 255}, {0: 0, 1: 255, 2: 255}),
            [TWO],
            ["'data.dataset.label_map={255: 1}'", "'data.dataset.label_map={255: ignore}'"],
        ),
    ],
)
def test_a_label_map_that_is_advised_cures(run, photos, tmp_path, changes, words, lines):
    put_values(photos, *changes)
    cures = errors(run, tmp_path, *words)
    assert cures
    for cure in cures:
        assert re.findall(r"'\S*data\.dataset\.label_map=\{.*?\}'", cure) == lines
    for line in lines:
        assert errors(run, tmp_path, *words, line.strip("'")) == []


def test_the_advice_before_a_training_holds_all_values(photos):
    put_values(photos, {1: 77}, {2: 99})
    settings = {"classes": ["ground", "tree", "car"]}
    datasets = [Folder(photos, split, **settings) for split in ("train", "val")]
    complaint(lambda: quick_check.quick_check(*datasets), "train:", "'data.dataset.label_map={77: ignore, 99: ignore}'")


def advised(cure):
    """The label map in a cure that is for a YAML file."""
    return yaml.safe_load(re.search(r"label_map: (\{.*?\}) in a YAML file", cure)[1])


def test_a_label_map_of_colours_that_is_advised_cures():
    known, classes = {"#0A0b0c": "sky", "#010203": 255, 7: "road"}, ("road", "sky")
    table = LabelTable(classes, known, voc_palette(2))
    for values in ([0, 7, 0x112233, 0x445566], [7, 40, 50]):
        raw = np.array(values, np.uint32 if max(values) > 255 else np.uint8)
        label_map = advised(table.cure(raw))
        again = LabelTable(classes, label_map, voc_palette(2))
        assert again.look_up(raw)[-2:].tolist() == [255, 255]
        for kind in (np.uint32, np.uint16):
            before, now = (part.look_up(np.arange(1 << 16, dtype=kind)) for part in (table, again))
            assert ((before == now) | (before == 254)).all()
    assert advised(table.cure(np.array([0x112233], np.uint32)))["#0a0b0c"] == 1


def test_a_map_that_renumbers_all_classes_is_not_mixed_with_what_it_left_out():
    table = LabelTable(("road", "car"), {7: 0, 26: 1}, voc_palette(2))
    cure = table.cure(np.array([0, 1, 7, 26], np.uint8))
    assert "so list 0 too, or set '++data.dataset.label_map={7: 0, 26: 1, other: ignore}'" in cure


def test_masks_that_are_all_void_end_a_training(photos):
    """A look that does not see all of them only warns."""
    for path in (photos / "masks/val").iterdir():
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(path)
    settings = {"classes": ["ground", "tree", "car"]}
    train, val = (Folder(photos, split, **settings) for split in ("train", "val"))
    complaint(
        lambda: quick_check.quick_check(train, val), "val: each of 3 masks is all void", "10.png", "check_data.py"
    )
    complaint(lambda: quick_check.quick_check(val, train), "val: each of 3 masks is all void")
    for k in range(20, 20 + quick_check.SAMPLES):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8) + np.uint8(k)).save(photos / f"images/val/{k}.png")
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(photos / f"masks/val/{k}.png")
    val = Folder(photos, "val", **settings)
    assert any(line.startswith("val: each of ") for line in quick_check.quick_check(train, val))
