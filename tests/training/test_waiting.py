"""Training steps queue work for a GPU without waiting for its results."""

import traceback
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.training.callbacks import divergence
from segframe.training.module import SegmentationModule


class Reads(TorchDispatchMode):
    """Lists the lines that read a tensor's value, for which a GPU would have to finish first."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            frame = next(frame for frame in reversed(traceback.extract_stack()) if "/torch/" not in frame.filename)
            self.lines.append(f"{frame.filename}:{frame.lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("callbacks", ["default", "ema"])
def test_no_value_is_read_in_a_step(run, tmp_path, monkeypatch, callbacks):
    lines = []  # by step; from one forward pass to the next
    reads, training_step = Reads(), SegmentationModule.training_step

    def step(self, batch, batch_idx):
        lines.append(list(reads.lines))
        reads.lines.clear()
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    arrived = SimpleNamespace(item=float)  # as a copy that has arrived from a GPU
    monkeypatch.setattr(divergence.HostCopy, "wait", lambda self: arrived)
    words = (
        "trainer.max_steps=8",
        "trainer.val_every_n_steps=8",
        "callbacks.curves.every_n_steps=4",
        "trainer.gradient_clip_val=1",
        f"callbacks={callbacks}",
    )
    with reads:
        assert run("train.py", *TINY, *words, "output_dir=run").code == 0
    assert [bool(read) for read in lines[1:]] == [False, False, False, True, False, False, False], lines
