"""Checkpoints on the disk: whole or not at all, and where a run goes on from."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segframe.errors import UserError
from segframe.files import atomic_write, write_text
from segframe.models.weights import checkpoint
from segframe.preemption import SIGNALS, exit_code, listen, named
from segframe.training.callbacks import preemption_checkpoint
from segframe.training.callbacks.preemption_checkpoint import parse
from segframe.training.checkpoint_io import AtomicCheckpointIO, resume_from

CONTENT = {"state_dict": {"a": torch.arange(10000.0)}}


def flip(path: Path) -> None:
    """Turns over the bits of a byte of the tensor, which torch.load would not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "checkpoints/last.ckpt"
    for step in (1, 2):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": step}, path)
        assert checkpoint.load_file(path)["global_step"] == step
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_strangers_checkpoint_is_no_runs(tmp_path):
    torch.save(CONTENT, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt holds no segframe: it is not the checkpoint of a run"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": 1}, path)

    def full(content, file):
        file.write(b"a part of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*last.ckpt \(No space left on device\); last.ckpt is still"):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": 2}, path)
    assert checkpoint.load_file(path)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_small_files_are_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "one")

    def stopped():
        with atomic_write(path) as file:
            file.write(b"tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    with pytest.raises(UserError, match=r"cannot write .*result.json/x \(File exists\)$"):
        write_text(path / "x", "two")


def test_what_torch_makes_of_a_full_disk_is_understood(tmp_path):
    """In a process that may not write large files."""
    code = (
        "import resource, sys, torch\n"
        "from segframe.training.checkpoint_io import WholeFiles\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "WholeFiles().save_checkpoint({'a': torch.arange(10000.0)}, sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.ckpt")], cwd=ROOT, capture_output=True, text=True
    )
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(CONTENT, path)
    assert torch.equal(checkpoint.load_file(path)["state_dict"]["a"], CONTENT["state_dict"]["a"])
    flip(path)
    with pytest.raises(UserError, match=r"x.ckpt is damaged: the checksum of x/data/0 does not match"):
        checkpoint.load_file(path)


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path, capsys):
    for name in ("best", "last"):
        torch.save(CONTENT, tmp_path / f"{name}.ckpt")
    assert resume_from(tmp_path) == tmp_path / "last.ckpt"
    assert not capsys.readouterr().out
    (tmp_path / ".last.ckpt.unfinished").write_bytes(b"killed while writing")
    flip(tmp_path / "last.ckpt")
    assert resume_from(tmp_path) == tmp_path / "best.ckpt"
    told = capsys.readouterr().out
    assert "last.ckpt is damaged: the checksum of last/data/0 does not match; going on from best.ckpt" in told
    assert {file.name for file in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "best.ckpt").read_bytes()[:1000])
    assert resume_from(tmp_path) == tmp_path / "best.ckpt"
    flip(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best.ckpt is damaged.*last.ckpt is damaged|last.ckpt is damaged.*best.ckpt"):
        resume_from(tmp_path)


@pytest.mark.parametrize(("every", "found"), [(500, (500, float("inf"))), ("0.5min", (float("inf"), 30))])
def test_every_so_many_steps_or_minutes(every, found):
    assert parse(every) == found


@pytest.mark.parametrize("every", [0, -5, "min", "5h", "nan", "infmin", 0.5])
def test_nothing_else(every):
    with pytest.raises(UserError, match=r"trainer.checkpoint_every=.*: give a number of optimizer steps"):
        parse(every)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_asked_to_end_before_its_first_step_says_so_too(capsys, number):
    usual = {signal_: signal.getsignal(signal_) for signal_ in SIGNALS}
    try:
        listen()
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(number)
    finally:
        for signal_, handler in usual.items():
            signal.signal(signal_, handler)
    assert end.value.code == exit_code(number)
    assert f"{named(number)}: ended before a further step" in capsys.readouterr().out


def test_a_second_ctrl_c_ends_at_once(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(preemption_checkpoint, "end_at_once", lambda: ended.append(1))
    callback = preemption_checkpoint.PreemptionCheckpoint("x/checkpoints/last.ckpt", None)
    callback._note(signal.SIGINT, None)
    assert "ends after the step at hand" in capfd.readouterr().err
    assert not ended
    callback._note(signal.SIGINT, None)
    assert ended


KILLED = """
import os, runpy, sys
from segframe.training.callbacks.preemption_checkpoint import LastCheckpoint
hook = LastCheckpoint.{hook}
def kill(self, trainer, *args):
    if trainer.global_step == {step} and not trainer.sanity_checking:
        os.killpg(0, {signal:d})
    hook(self, trainer, *args)
LastCheckpoint.{hook} = kill
sys.argv[:] = ["train.py"] + {words}
sys.path.insert(0, {root})
runpy.run_path({root} + "/train.py", run_name="__main__")
"""
WORDS = (
    *(*TINY, "trainer.max_steps=10", "trainer.val_every_n_steps=5", "trainer.checkpoint_every=3"),
    *("callbacks.curves.every_n_steps=2", "callbacks.images.num_images=1", "~callbacks.report", "resume=auto"),
)


def train(folder: Path, workers: int, hook: str = "on_train_start", step: int = -1, number: int = 0) -> tuple[int, str]:
    """The exit code and the output of a run that sends itself and its workers a signal at a step."""
    words = [*WORDS, f"output_dir={folder}", f"data.num_workers={workers}"]
    code = KILLED.format(hook=hook, step=step, signal=number, words=words, root=repr(str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True, start_new_session=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    code, out = train(folder, 0)
    assert code == 0, out
    return folder


def metrics(folder: Path) -> list[list[str]]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    kept = [k for k, column in enumerate(lines[0]) if not column.startswith("speed/")]
    return [[line[k] for k in kept] for line in lines]


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def pictures(folder: Path) -> dict[str, list[int]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.mark.parametrize(
    ("number", "hook", "step", "workers", "kept"),
    [
        pytest.param(signal.SIGKILL, "on_train_batch_end", 2, 0, None, marks=pytest.mark.slow),
        (signal.SIGKILL, "on_train_batch_end", 8, 2, 6),
        pytest.param(signal.SIGKILL, "on_validation_batch_end", 10, 0, 9, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "on_train_batch_end", 4, 2, 4, marks=pytest.mark.slow),
        (signal.SIGTERM, "on_train_batch_end", 5, 2, 5),
        (signal.SIGUSR1, "on_validation_batch_end", 5, 2, 5),
        pytest.param(signal.SIGTERM, "on_validation_batch_end", 10, 0, 9, marks=pytest.mark.slow),
    ],
)
def test_the_same_command_ends_a_killed_run_as_if_it_had_not_been(whole, tmp_path, number, hook, step, workers, kept):
    """Killed, or asked to end, at steps and in validations; between curves, which then show what came before too."""
    folder = tmp_path / "parts"
    code, out = train(folder, workers, hook, step, number)
    assert code == (-9 if number == signal.SIGKILL else exit_code(number)), out
    if number != signal.SIGKILL:
        told = "in" if kept == step else "not in"
        assert f"{named(number)}: step {step} is {told} parts/checkpoints/last.ckpt; go on with resume=parts" in out
    if kept is not None:
        assert checkpoint.load_file(folder / "checkpoints/last.ckpt")["global_step"] == kept
    code, out = train(folder, 2 - workers)
    assert code == 0, out
    assert kept is None or f"going on from step {kept} of 10 (parts/checkpoints/last.ckpt)" in out
    first, second = (checkpoint.load_file(path / "checkpoints/last.ckpt") for path in (whole, folder))
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
    for key, state in first["optimizer_states"][0]["state"].items():
        assert torch.equal(state["momentum_buffer"], second["optimizer_states"][0]["state"][key]["momentum_buffer"])
    assert first["lr_schedulers"] == second["lr_schedulers"]
    assert metrics(whole) == metrics(folder)
    for tag in ("train/loss", "val/miou"):
        assert curve(whole, tag) == curve(folder, tag)
    assert pictures(whole) == pictures(folder)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
