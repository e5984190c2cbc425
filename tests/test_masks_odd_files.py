"""Masks, images and lists that are no files, or files of another kind than they seem: told in one sentence."""

import os

import pytest
from test_data import complaint, put_pair
from test_voc import sbd_tree, voc_tree

from segframe.data import VOC, Folder
from segframe.data.masks import MAX_BYTES, read_header, read_image, read_raw, stored_area

READERS = (read_image, read_raw, read_header, stored_area)
ODD = ("pipe", "device", "folder")


def put_odd(path, kind):
    """What would be read for ever, or not at all."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_what_is_no_file_is_not_read(tmp_path, suffix, kind):
    path = put_odd(tmp_path / f"m{suffix}", kind)
    for read in READERS:
        complaint(lambda read=read: read(path), f"{path} is no regular file")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_files_that_are_larger_than_any_image_are_not_read(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)  # a hole, which takes no room
    for read in READERS:
        complaint(lambda read=read: read(path), path, f"{MAX_BYTES:,}", "another file?")


@pytest.mark.parametrize("kind", ODD)
def test_lists_that_are_no_files(tmp_path, kind):
    put_pair(tmp_path, "a", "train")
    put_pair(tmp_path, "a")
    put_odd(tmp_path / "list.txt", kind)
    complaint(lambda: Folder(tmp_path, "train", classes="list.txt"), "list.txt is no regular file")
    listed = {"train": "list.txt"}
    complaint(lambda: Folder(tmp_path, "train", classes=["x", "y"], splits=listed), "list.txt is no regular file")


@pytest.mark.parametrize("kind", ODD)
def test_masks_of_sbd_that_are_no_files(tmp_path, kind):
    voc_tree(tmp_path)
    sbd_tree(tmp_path / "sbd")
    path = put_odd(tmp_path / "sbd/cls/s.mat", kind)
    complaint(lambda: VOC.load_mask(None, path), f"{path} is no regular file")


def test_a_mask_may_be_a_link(tmp_path):
    put_pair(tmp_path, "a", "train", 1)
    (tmp_path / "masks/train/a.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "masks/train/a.png").symlink_to(tmp_path / "elsewhere.png")
    assert (Folder(tmp_path, "train", classes=["x", "y"]).read_mask(0) == 1).all()
