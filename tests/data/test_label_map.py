"""Mapping of mask values to classes, and the advice about values that are no class."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from dataset_files import check_error
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from segframe.data import VOC
from segframe.data.image_io import read_raw
from segframe.data.label_map import LabelTable, voc_palette
from segframe.data.mask_checks import advise, advise_on_black_and_white, advise_on_conflicts, map_mask


def make_table(classes, label_map, palette=()):
    return LabelTable(classes, label_map, palette or voc_palette(len(classes)))


def map_row(table, *values, dtype=np.uint8):
    return map_mask(table, np.array([values], dtype), Path("m.png"))[0].tolist()


def test_voc_palette():
    assert VOC.palette[20] == voc_palette(21)[20] == (0, 64, 128)
    assert len(set(voc_palette(256))) == 256


def test_every_byte_without_a_label_map():
    table = make_table(("a", "b"), {})
    assert map_row(table, 0, 1, 255) == [0, 1, 255]
    for value in range(2, 255):
        check_error(lambda value=value: map_row(table, value, value), f"m.png holds the value {value} (2 pixels)")


def test_names_other_and_16_bits():
    table = make_table(("road", "car"), {7: "road", 26: 1, "other": "ignore"})
    assert map_row(table, 7, 26, 0, 1, 255) == [0, 1, 255, 255, 255]
    table = make_table(("ground", "cat"), {1000: "cat", 40000: "ignore"})
    assert map_row(table, 0, 1000, 40000, dtype=np.uint16) == [0, 1, 255]


def test_unlisted_values_may_not_share_a_class():
    table = make_table(("a", "b", "c"), {7: 1})
    assert map_row(table, 7, 0, 2) == [1, 0, 2]
    check_error(lambda: map_row(table, 1), "set '++data.dataset.label_map={7: 1, 1: ignore}', or a class instead")


@pytest.mark.parametrize(
    ("label_map", "part"),
    [
        ({1: "catt"}, "did you mean 'cat'"),
        ({-1: 0}, "-1"),
        ({True: 1, False: 0}, "label_map lists True: its keys are mask values"),
        ({"#12345": 0}, "#rrggbb"),
        ({"#010203": 0, "1-2-3": 1}, "'#010203' and '1-2-3', which are one colour"),
    ],
)
def test_wrong_label_maps(label_map, part):
    check_error(lambda: make_table(("dog", "cat"), label_map), part)


@pytest.mark.parametrize(
    ("num_classes", "values", "advice"),
    [
        (2, [0, 200], "for a binary mask set 'data.dataset.label_map={200: 1}'"),
        (11, [0, 5, 11], "if 11 is the void, set 'data.dataset.label_map={11: ignore}'"),
        (2, [0, 1, 2], "void and the classes count from 1, set 'data.dataset.label_map={0: ignore, 1: 0, 2: 1}'"),
        (3, [1, 2, 3, 9], "count from 1, set 'data.dataset.label_map={1: 0, 2: 1, 3: 2, 9: ignore}'; if 3 is the void"),
        (19, [0, 7, 33], "Cityscapes labelIds"),
        (3, [0, 127, 255], "levels of the 3 classes in their order, set 'data.dataset.label_map={127: 1, 255: 2}'"),
        (2, [0, 127, 255], "levels of the 2 classes in their order, set 'data.dataset.label_map={127: 1}'"),
        (3, list(range(60)), "JPEG"),
    ],
)
def test_advice_about_indices(num_classes, values, advice):
    table = make_table([f"c{i}" for i in range(num_classes)], {})
    check_error(lambda: map_row(table, *values), "m.png", "(1 pixels)", f"{num_classes} classes", advice)


def test_no_setting_is_advised_for_fixed_classes():
    table = LabelTable([f"c{i}" for i in range(21)], {7: 3}, voc_palette(21), are_settings=False)
    for values in (np.array([21], np.uint8), np.array([0x123456], np.uint32)):
        assert advise(table, values).startswith("this dataset's classes are fixed: correct the file")
    assert advise_on_black_and_white(table) == "are they binary? Then save them with the values 0 and 1"
    assert advise_on_conflicts(table, {0: 1}).endswith("save them as RGB, or with class indices as values")


@pytest.mark.parametrize("values", [[0, 7, 0x112233, 0x445566], [7, 40, 50]])
def test_advised_maps_with_colours_can_be_pasted(values):
    label_map, classes = {"#0A0b0c": "sky", "#010203": 255, 7: "road"}, ("road", "sky")
    table = make_table(classes, label_map)
    raw = np.array(values, np.uint32 if max(values) > 255 else np.uint8)
    typed = re.search(r"'(\+\+data\.dataset\.label_map=.*?)'", advise(table, raw))[1]
    advised = OverridesParser.create().parse_override(typed).value()
    assert make_table(classes, advised).map_values(raw)[-2:].tolist() == [255, 255]
    assert make_table(classes, {"10-11-12": "sky", "#010203": 255, 7: 0}).colours == table.colours


@pytest.mark.parametrize(("label_map", "values"), [({5: 1}, [0, 5, 77]), ({7: 1}, [0, 1, 7]), ({}, [1, 2, 3, 77])])
def test_advised_settings_solve_the_problem(label_map, values):
    classes, raw = ["c0", "c1", "c2"], np.array(values, np.uint8)
    table = make_table(classes, label_map)
    settings = re.findall(r"'\S*data\.dataset\.label_map=(\{.*?\})'", advise(table, raw))
    assert settings
    for setting in settings:
        changed = make_table(classes, label_map | yaml.safe_load(setting))
        assert (changed.map_values(raw) != 254).all()


CITY = ((128, 64, 128), (70, 70, 70), (220, 20, 60))


def put_colours(path, *colours, mode="RGB"):
    """A mask of one row per colour."""
    rows = np.array([[colour] * 5 for colour in colours], np.uint8)
    if mode == "RGBA":
        rows = np.dstack([rows, np.arange(5 * len(colours), dtype=np.uint8).reshape(-1, 5)])
    Image.fromarray(rows).save(path)
    return path


def read_city(path, label_map, palette=CITY):
    table = make_table(("road", "building", "person")[: len(palette)], label_map, palette)
    return map_mask(table, read_raw(path), path)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", ".bmp"), ("RGBA", ".png")])
def test_colours_are_read_by_the_palette(tmp_path, mode, suffix):
    path = put_colours(tmp_path / f"m{suffix}", *CITY, (224, 224, 192), mode=mode)
    mask = read_city(path, {"#e0e0c0": "ignore"})
    assert mask.dtype == np.uint8
    assert mask[:, 0].tolist() == [0, 1, 2, 255]
    assert (mask == mask[:, :1]).all()


def test_the_label_map_overrides_the_palette(tmp_path):
    path = put_colours(tmp_path / "m.png", *CITY, (1, 2, 3))
    assert read_city(path, {"#464646": "person", "other": 255})[:, 0].tolist() == [0, 2, 2, 255]
    assert read_city(path, {"#010203": 1, "#DC143C": 0})[:, 0].tolist() == [0, 1, 0, 1]
    table = make_table(("a", "b"), {"#ff0000": "ignore"})
    assert table.is_identity
    assert map_row(table, 0, 1, 255) == [0, 1, 255]


def test_advice_about_colours(tmp_path):
    path = put_colours(tmp_path / "m.png", CITY[0], (224, 224, 192))
    check_error(lambda: read_city(path, {}), path, "#e0e0c0 (5 pixels), which", "3 classes", "{224-224-192: ignore}'")
    put_colours(path, *((9, k, 3) for k in range(20)))
    check_error(lambda: read_city(path, {}), path, "and 15 more", "JPEG")
    black_and_white = ((0, 0, 0), (255, 255, 255))
    put_colours(path, *black_and_white)
    check_error(lambda: read_city(path, {}, CITY[:2]), "data.dataset.binary=true")
    assert read_city(path, {}, black_and_white)[:, 0].tolist() == [0, 1]
    put_colours(path, *(colour[::-1] for colour in CITY))
    check_error(lambda: read_city(path, {}), "data.dataset.palette seems to be in the order blue, green, red")
    put_colours(path, (1, 2, 3), (4, 5, 6))
    check_error(lambda: read_city(path, {}), "correct data.dataset.palette, which holds none of the masks' colours")


def test_colours_that_nobody_declared(tmp_path):
    """VOC's colours are no class's by coincidence, and no advice makes void of all others."""
    put_colours(tmp_path / "m.png", *voc_palette(3))
    table = LabelTable(("road", "building", "person"), {}, ())
    raw = read_raw(tmp_path / "m.png")
    sentence = "and data.dataset.palette is not set: set 'data.dataset.palette=[[r,g,b],...]', the colours of the 3"
    check_error(lambda: map_mask(table, raw, Path("m.png")), "#000000 (5 pixels)", sentence)
    put_colours(tmp_path / "m.png", (0, 0, 0), (1, 1, 1), (255, 255, 255))
    levels = "set 'data.dataset.palette=[[0,0,0],[1,1,1],[2,2,2]]', and 'data.dataset.label_map={255-255-255: ignore}'"
    check_error(lambda: map_mask(table, read_raw(tmp_path / "m.png"), Path("m.png")), levels)
    listed = LabelTable(("road", "building", "person"), {"#800000": "person"}, ())
    check_error(lambda: map_mask(listed, raw, Path("m.png")), "#000000 (5 pixels), #008000 (5 pixels), and", "[[r,g,b]")


def test_classes_of_one_colour_are_an_error_for_colour_masks_only(tmp_path):
    palette = (CITY[0], CITY[1], CITY[0])
    path = put_colours(tmp_path / "m.png", *CITY[:2])
    check_error(lambda: read_city(path, {}, palette), "#804080 to road and to person")
    assert read_city(path, {"#804080": "person"}, palette)[:, 0].tolist() == [2, 1]
    assert map_row(make_table(("road", "building", "person"), {}, palette), 0, 2) == [0, 2]
