"""Splits as lists of names or of image and mask."""

import unicodedata
from functools import partial

import pytest
from dataset_files import check_error, names, put_image, put_lines, put_mask, put_pair

from segframe.data import Folder
from segframe.data.file_listing import INVALID_LINE, collect_problems


def make(root, split="t"):
    """The split of the list <split>.txt."""
    return Folder(root, split, classes=["x", "y"], splits={split: f"{split}.txt"})


def test_names_and_pairs(tmp_path):
    for name in ("a", "b.c", "d e", "my"):
        put_pair(tmp_path, name)
    put_lines(tmp_path / "t.txt", "b.c", "a.jpg", "", "d e", "/gone/one disk/my.jpg")
    assert names(make(tmp_path)) == ["b.c", "a", "d e", "my"]
    put_lines(tmp_path / "t.txt", "images/a.jpg masks/a.png")
    assert names(make(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    "lines",
    [
        ["C:\\d\\images\\a.jpg;C:\\d\\masks\\a.png", "C:\\d\\images\\b.jpg;C:\\d\\masks\\b.png"],
        ["data/images/a.jpg data/masks/a.png", "data/images/b.jpg data/masks/b.png"],
        ["# image, mask", '"images/a.jpg", "masks/a.png"', "#", "'images/b.jpg' 'masks/b.png'"],
        ["image,mask", "images/a.jpg,masks/a.png", "images/b.jpg,masks/b.png"],
        ["mask_path,image_path,width", "masks/a.png,images/a.jpg,16", "masks/b.png,images/b.jpg,16"],
        [",image_id,image,label", "0,a,images/a.jpg,masks/a.png", "1,b,images/b.jpg,masks/b.png"],
        ["0,images/a.jpg,masks/a.png,train", "images/b.jpg masks/b.png # blurred"],
        ["image,mask,split", "images/a.jpg,masks/a.png,train", "images/b.jpg,masks/b.png,train"],
        ["filename", "a.jpg", "b.jpg"],
    ],
)
def test_lists_of_other_projects(tmp_path, lines):
    for name, value in (("a", 0), ("b", 1)):
        put_pair(tmp_path, name, values=value)
    put_lines(tmp_path / "t.txt", *lines)
    dataset = make(tmp_path)
    assert names(dataset) == ["a", "b"]
    assert [int(dataset.read_mask(k).max()) for k in (0, 1)] == [0, 1]


def test_a_list_of_paths_needs_no_folders(tmp_path):
    put_image(tmp_path / "p/a.jpg")
    put_mask(tmp_path / "q/a.png", 1)
    put_lines(tmp_path / "t.txt", "# mine", f"{tmp_path}/p/a.jpg {tmp_path}/q/a.png")
    assert (make(tmp_path).read_mask(0) == 1).all()
    put_lines(tmp_path / "t.txt", "a")
    check_error(lambda: make(tmp_path), "no folder images below it, but p (1 files), q (1 files)")


def test_a_first_line_that_is_an_image_is_no_header(tmp_path):
    for name in ("image", "a"):
        put_pair(tmp_path, name)
    put_lines(tmp_path / "t.txt", "image", "a")
    assert names(make(tmp_path)) == ["image", "a"]
    put_lines(tmp_path / "t.txt", "images/lost.jpg,masks/lost.png", "images/a.jpg,masks/a.png")
    check_error(lambda: make(tmp_path), "images/lost.jpg does not exist")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"a\n\nzebra\n", ["t.txt, line 3: 'zebra' has no image: "]),
        (b"a\na.jpg\n", ["'a' repeatedly", "list it once"]),
        (b"images/a.jpg masks/lost.png\n", ["t.txt, line 1: ", "lost.png does not exist; bring the file, or correct"]),
        (b"image,mask\nimages/a.jpg,masks/a.png\n\nimages/lost.jpg,masks/a.png\n", ["line 4: ", "lost.jpg does not"]),
        (
            b"image,mask,split\nimages/a.jpg,masks/a.png,train\nimages/b.jpg,masks/b.png,val\n",
            ["t.txt has the lines of several splits (train, val): write a list for each split, data.dataset.splits="],
        ),
        ("a\nstra\xdfe\n".encode("latin-1"), ["t.txt is no text in UTF-8", "at byte 6", ": save it as UTF-8"]),
        ("a\r\n".encode("utf-16-be"), ["t.txt is no text in UTF-8", ": save it as UTF-8"]),
        (b"\n \n", ["t.txt lists nothing", "a name on each line"]),
        (b"a\n" + b"word " * 9999, ["t.txt, line 2, has 49,994 characters", "a name on each line"]),
        (None, ["t.txt", "does not exist"]),
    ],
)
def test_wrong_lists(tmp_path, content, parts):
    put_pair(tmp_path, "a")
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    check_error(lambda: make(tmp_path), *parts)


@pytest.mark.parametrize("line", ["a a 1", "images/a masks_v2/a", "a,b", "a 1"])
def test_lines_that_are_neither_a_name_nor_a_pair(tmp_path, line):
    put_pair(tmp_path, "a")
    put_lines(tmp_path / "t.txt", "a", "", line)
    where = f"{tmp_path / 't.txt'}, line 3, {line!r}"
    check_error(lambda: make(tmp_path), f"{where} is neither the name of an image nor", "comma")
    with collect_problems() as problems:
        assert names(make(tmp_path)) == ["a"]
    assert problems == [(INVALID_LINE, where)]


def test_empty_splits(tmp_path):
    put_pair(tmp_path, "a")
    folder = partial(Folder, tmp_path, classes=["x", "y"])
    check_error(lambda: folder("val", val_ratio=1e-9), "val_ratio=1e-09 leaves val none of the 1", "higher")
    check_error(lambda: folder("train", val_ratio=1 - 1e-9), "leaves train none of the 1 images", "lower")
    (tmp_path / "images/train").mkdir()
    (tmp_path / "masks/train").mkdir()
    check_error(
        lambda: folder("train"), f"{tmp_path / 'images/train'} holds no image", "set data.dataset.images and masks"
    )


@pytest.mark.parametrize(("of_images", "of_masks"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_of_names_are_equivalent(tmp_path, of_images, of_masks):
    image, mask = (unicodedata.normalize(form, "caf\xe9") for form in (of_images, of_masks))
    put_image(tmp_path / "images" / f"{image}.jpg")
    put_mask(tmp_path / "masks" / f"{mask}.png")
    for line in (image, f"{mask}.jpg", f"images/{mask}.jpg,masks/{image}.png"):
        put_lines(tmp_path / "t.txt", line)
        dataset = make(tmp_path)
        assert names(dataset) == ["caf\xe9"]
        assert (dataset.read_mask(0) == 0).all()
    assert names(Folder(tmp_path, "train", classes=["x", "y"], val_ratio=1e-9)) == ["caf\xe9"]
