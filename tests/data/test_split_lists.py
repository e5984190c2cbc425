"""Splits as lists of names or pairs, in the forms that are found in the wild."""

import unicodedata
from functools import partial

import pytest
from dataset_files import check_error, names, put_image, put_lines, put_mask, put_pair

from segframe.data.datasets.folder import Folder
from segframe.data.file_listing import INVALID_LINE, collect_problems


def test_folder_with_lists(tmp_path):
    for name in ("a", "b.c", "d e"):
        put_pair(tmp_path, name)
    put_lines(tmp_path / "train.txt", "b.c", "a.jpg", "", "d e")
    put_lines(tmp_path / "val.txt", "images/a.jpg masks/a.png")
    put_lines(tmp_path / "wrong.txt", "a", "zebra")
    put_lines(tmp_path / "twice.txt", "a", "a.jpg")
    (tmp_path / "latin.txt").write_bytes("a\nstra\xdfe\n".encode("latin-1"))
    put_lines(tmp_path / "lost.txt", "images/a.jpg masks/lost.png")
    splits = {name: f"{name}.txt" for name in ("train", "val", "wrong", "twice", "lost", "gone", "latin")}

    def make(split):
        return Folder(tmp_path, split, classes=["x", "y"], splits=splits)

    assert names(make("train")) == ["b.c", "a", "d e"]
    assert names(make("val")) == ["a"]
    check_error(lambda: make("wrong"), "wrong.txt", "'zebra'", "no image")
    check_error(lambda: make("twice"), "'a'", "2 times")
    check_error(lambda: make("lost"), "lost.png does not exist", "lost.txt lists it")
    check_error(lambda: make("latin"), "latin.txt is no text in UTF-8", "at byte 6", ": save it as UTF-8")
    check_error(lambda: make("gone"), "gone.txt", "does not exist")


def test_lines_of_a_list_that_are_a_pair(tmp_path):
    for name in ("a", "my b", "my"):
        put_pair(tmp_path, name)
        put_mask(tmp_path / "masks_v2" / f"{name}.png", 1)
    lines = {
        "comma": "images/a.jpg,masks_v2/a.png",
        "spaced": "images/a.jpg , masks_v2/a.png",
        "tab": "images/my b.jpg\tmasks_v2/my b.png",
        "space": "images/my b.jpg masks_v2/my b.png",
    }
    for split, line in lines.items():
        put_lines(tmp_path / f"{split}.txt", line)
        dataset = Folder(tmp_path, split, classes=["x", "y"], splits={split: f"{split}.txt"})
        assert dataset.samples[0].image == tmp_path / line[: line.index(".jpg") + 4]
        assert (dataset.read_mask(0) == 1).all()


def test_lines_of_a_list_that_are_a_name(tmp_path):
    for name in ("a", "my b", "my", "c,d"):
        put_pair(tmp_path, name)
    put_lines(tmp_path / "t.txt", "images/a.jpg", "my b.jpg", "/gone/one disk/my.jpg", "c,d")
    assert names(Folder(tmp_path, "t", classes=["x", "y"], splits={"t": "t.txt"})) == ["a", "my b", "my", "c,d"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_utf_16(tmp_path, encoding):
    put_pair(tmp_path, "a")
    (tmp_path / "t.txt").write_bytes("a\r\n".encode(encoding))
    make = partial(Folder, tmp_path, "t", classes=["x", "y"], splits={"t": "t.txt"})
    check_error(make, "t.txt is no text in UTF-8", ": save it as UTF-8")


def test_splits_that_are_empty(tmp_path):
    put_pair(tmp_path, "a")
    put_lines(tmp_path / "t.txt", "", " ")
    make = partial(Folder, tmp_path, classes=["x", "y"])
    check_error(lambda: make("t", splits={"t": "t.txt"}), f"{tmp_path / 't.txt'} lists nothing", "a name on each line")
    check_error(lambda: make("val", val_ratio=1e-9), "data.dataset.val_ratio=1e-09 leaves val none of the 1", "higher")
    check_error(lambda: make("train", val_ratio=1 - 1e-9), "leaves train none of the 1 images", "lower")
    (tmp_path / "images/train").mkdir()
    (tmp_path / "masks/train").mkdir()
    check_error(lambda: make("train"), f"{tmp_path / 'images/train'} holds no image", "configs/data/folder.yaml")


def test_images_of_one_name_in_several_folders_are_told_apart(tmp_path):
    listed = [("one/0", "one/0"), ("two/0", "two/0"), ("two/1", "two/1")]
    for image, mask in listed:
        put_image(tmp_path / "images" / f"{image}.jpg")
        put_mask(tmp_path / "masks" / f"{mask}.png")
    lines = [f"images/{image}.jpg masks/{mask}.png" for image, mask in listed]
    put_lines(tmp_path / "all.txt", *lines)
    put_lines(tmp_path / "two.txt", *lines[1:])
    put_lines(tmp_path / "twice.txt", *lines, lines[0])
    make = partial(
        Folder, tmp_path, classes=["x", "y"], splits={name: f"{name}.txt" for name in ("all", "two", "twice")}
    )
    assert names(make("all")) == ["one/0", "two/0", "1"]
    assert make("all")[1]["name"] == "two/0"
    assert names(make("two")) == ["0", "1"]
    check_error(lambda: make("twice"), "'one/0' 2 times", "list it once")


@pytest.mark.parametrize("line", ["a a 1", "images/a masks_v2/a", "images/a.jpg|masks_v2/a.png x", "a,b", "a.jpg a"])
def test_lines_of_a_list_that_are_neither(tmp_path, line):
    put_pair(tmp_path, "a")
    put_lines(tmp_path / "t.txt", "a", "", line)
    make = partial(Folder, tmp_path, "t", classes=["x", "y"], splits={"t": "t.txt"})
    check_error(make, f"{tmp_path / 't.txt'}, line 3, {line!r} is neither the name of an image nor", "comma")
    with collect_problems() as problems:
        assert names(make()) == ["a"]
    assert problems == [(INVALID_LINE, f"{tmp_path / 't.txt'}, line 3, {line!r}")]


@pytest.mark.parametrize(("of_images", "of_masks"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_in_two_forms_of_unicode_are_one(tmp_path, of_images, of_masks):
    image, mask = (unicodedata.normalize(form, "caf\xe9") for form in (of_images, of_masks))
    put_image(tmp_path / "images" / f"{image}.jpg")
    put_mask(tmp_path / "masks" / f"{mask}.png")
    put_lines(tmp_path / "image.txt", image)
    put_lines(tmp_path / "mask.txt", f"{mask}.jpg")
    put_lines(tmp_path / "pair.txt", f"images/{mask}.jpg,masks/{image}.png")
    splits = {name: f"{name}.txt" for name in ("image", "mask", "pair")}
    for split in splits:
        dataset = Folder(tmp_path, split, classes=["x", "y"], splits=splits)
        assert names(dataset) == ["caf\xe9"]
        assert (dataset.read_mask(0) == 0).all()
    assert names(Folder(tmp_path, "train", classes=["x", "y"], val_ratio=1e-9)) == ["caf\xe9"]
