"""Class lists in files: names alone, and the formats of annotation tools."""

import numpy as np
import pytest
from dataset_files import check_error, put_image, put_mask
from PIL import Image

from segframe.data import Folder
from segframe.data.class_files import read_class_file


def read(tmp_path, text, name="classes.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read_class_file(path)


CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"


@pytest.mark.parametrize(
    ("text", "names", "palette", "label_map"),
    [
        ('\ufeffsky\r\n\r\nthe sea \r\n"land"', ["sky", "the sea", "land"], None, {}),
        ("Pixel Value, Class\n0, background\n1, cat\n2, dog\n", ["background", "cat", "dog"], None, {}),
        ('\ufeffpixel value,class\r\n2,"cat, small"\r\n1,dog\r\n', ["dog", "cat, small"], None, {1: 0, 2: 1}),
        (CVAT, ["background", "cat"], [(0, 0, 0), (250, 50, 83)], {}),
        ("cat : 250, 50, 83 : a,b :\n# dog:1,1,1::\nsea:0,0,0::\n", ["cat", "sea"], [(250, 50, 83), (0, 0, 0)], {}),
        ("0 0 0 ground\n250 50\t83\tbig cat\n", ["ground", "big cat"], [(0, 0, 0), (250, 50, 83)], {}),
        ("Pixel Value, Class\n0, ground\n1, cat\n255, ignore\n", ["ground", "cat"], None, {255: "ignore"}),
        ("__ignore__\n_background_\ncat\n", ["_background_", "cat"], None, {}),
        ("name,r,g,b\ncat,250,50,83\nground,0,0,0\n", ["cat", "ground"], [(250, 50, 83), (0, 0, 0)], {}),
        ("id,name\n0,ground\n1,cat\n2,ignore\n", ["ground", "cat"], None, {2: "ignore"}),
        (",label\n0,ground\n1,cat\n", ["ground", "cat"], None, {}),
        ("class_name,red,green,blue\nground,0,0,0\ncat,9,8,7\n", ["ground", "cat"], [(0, 0, 0), (9, 8, 7)], {}),
        (",name,r,g,b\n0,cat,9,8,7\n1,ground,0,0,0\n", ["cat", "ground"], [(9, 8, 7), (0, 0, 0)], {}),
        ("Name; R; G; B\r\nground; 0; 0; 0\r\nignore; 9; 9; 9\r\n", ["ground"], [(0, 0, 0)], {"#090909": "ignore"}),
    ],
)
def test_formats(tmp_path, text, names, palette, label_map):
    assert read(tmp_path, text) == (names, palette, label_map)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("id,name,group\n0,cat,1\n", ["line 1, 'id,name,group'", "2 of 2 lines", "name,r,g,b or id,name"]),
        ("id,name\n1,ground\n2,cat\n", ["line 2, '1,ground', has not the id 0", "Pixel Value"]),
        ("name,id\nground\n", ["line 2, 'ground', is no mask value and name"]),
        ("cat\n# dogs\ndog\n", ["line 2, '# dogs'"]),
        ("0 ground\n1 cat\n", ["line 1, '0 ground'"]),
        ("ground 0 0 0\ncat 250 50 83\n", ["line 1, 'ground 0 0 0'"]),
        ("class\ncat\n", ["seems to be a header"]),
        ("Pixel Value, Class\n0, ground\n0, cat\n", ["line 3", "repeats the mask value 0"]),
        ("name,r,g,b\nground,0,0,256\n", ["line 2, 'ground,0,0,256', is no name and colour"]),
        ("ground:0,0,0::\ncat:0,0,0::\n", ["line 2", "repeats the colour of ground"]),
        ("ground:0,0,0::\ncat\n", ["line 2, 'cat', is no name and colour"]),
    ],
)
def test_other_files_are_refused(tmp_path, text, parts):
    check_error(lambda: read(tmp_path, text), f"data.dataset.classes={tmp_path / 'classes.txt'}: line", *parts)


def test_masks_are_read_by_the_file(tmp_path):
    put_image(tmp_path / "images/train/a.png", (1, 3))
    (tmp_path / "masks/train").mkdir(parents=True)
    Image.fromarray(np.array([[(250, 50, 83), (0, 0, 0), (9, 9, 9)]], np.uint8)).save(tmp_path / "masks/train/a.png")
    (tmp_path / "labelmap.txt").write_text(CVAT + "ignore:9,9,9::\n")
    dataset = Folder(tmp_path, "train", classes="labelmap.txt")
    assert dataset.palette == ((0, 0, 0), (250, 50, 83))
    assert dataset[0]["mask"].tolist() == [[1, 0, 255]]
    put_mask(tmp_path / "masks/train/a.png", [3, 7, 255], (1, 3))
    (tmp_path / "train").mkdir()
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n3, ground\n7, cat\n")
    dataset = Folder(tmp_path, "train", classes="train/_classes.csv")
    assert dataset[0]["mask"].tolist() == [[0, 1, 255]]
    assert Folder(tmp_path, "train", classes="train/_classes.csv", label_map={255: 1})[0]["mask"].tolist() == [
        [0, 1, 1]
    ]


def test_a_missing_list_names_the_file(tmp_path):
    put_image(tmp_path / "images/train/x.jpg")
    put_mask(tmp_path / "masks/train/x.png")
    check_error(lambda: Folder(tmp_path, "train"), "data.dataset.classes=[background,cat,...]")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n0, ground\n1, cat\n")
    check_error(lambda: Folder(tmp_path, "train"), "or data.dataset.classes=train/_classes.csv")
    check_error(lambda: Folder(tmp_path, "train", classes="names.txt"), "names.txt", "one name per line")
