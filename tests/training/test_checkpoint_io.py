"""Checkpoints on the disk: replaced atomically, checked for damage, and the one that a run continues from."""

import errno
import os
from pathlib import Path

import pytest
import torch

from segframe.errors import UserError
from segframe.files import atomic_write, write_text
from segframe.models.weights import checkpoint
from segframe.training.checkpoint_io import AtomicCheckpointIO, find_resume_checkpoint

CONTENT = {"state_dict": {"a": torch.arange(10000.0)}}


def flip(path: Path) -> None:
    """Invert a byte of the tensor, which torch.load would not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_checkpoints_are_replaced_atomically(tmp_path):
    path = tmp_path / "checkpoints/last.ckpt"
    for step in (1, 2):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": step}, path)
        assert checkpoint.load_file(path)["global_step"] == step
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, name):
    """`write`: torch.save makes a RuntimeError of the system's."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": 1}, path)

    def full(content, file):
        file.write(b"a part of it")
        try:
            full_disk()
        except OSError as error:
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0") from error

    monkeypatch.setattr(*(torch, "save", full) if name == "write" else (os, "fsync", full_disk))
    with pytest.raises(UserError, match=r"cannot write .*last.ckpt \(No space left on device\); last.ckpt is still"):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": 2}, path)
    assert checkpoint.load_file(path)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_small_files_are_replaced_atomically(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "one")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    with pytest.raises(UserError, match=r"cannot write .*result.json/x \(File exists\)$"):
        write_text(path / "x", "two")


def test_checkpoints_of_something_else(tmp_path):
    torch.save(CONTENT, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt has no segframe: it is not the checkpoint of a run"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_states_of_renamed_callbacks_keep_their_place(trained):
    path = trained / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["callbacks"] |= {"Curves": {"step": 3}, "Mine": {}}
    torch.save(content, path)
    callbacks = AtomicCheckpointIO().load_checkpoint(path)["callbacks"]
    assert callbacks["TrainingCurves"] == {"step": 3}
    assert "Mine" in callbacks


def test_a_run_continues_from_the_newest_undamaged_checkpoint(tmp_path, capsys):
    for name in ("best", "last"):
        torch.save(CONTENT, tmp_path / f"{name}.ckpt")
    assert find_resume_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    assert not capsys.readouterr().out
    (tmp_path / ".last.ckpt.unfinished").write_bytes(b"killed while writing")
    flip(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt is damaged: the checksum of last/data/0"):
        checkpoint.load_file(tmp_path / "last.ckpt")
    assert find_resume_checkpoint(tmp_path) == tmp_path / "best.ckpt"
    out = capsys.readouterr().out
    assert "last.ckpt is damaged: the checksum of last/data/0" in out
    assert "best.ckpt" in out
    assert {file.name for file in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "best.ckpt").read_bytes()[:1000])
    assert find_resume_checkpoint(tmp_path) == tmp_path / "best.ckpt"
    flip(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best.ckpt is damaged.*last.ckpt is damaged|last.ckpt is damaged.*best.ckpt"):
        find_resume_checkpoint(tmp_path)
