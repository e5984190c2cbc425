"""segframe.train and segframe.evaluate: the results of the programs, and a process that is left as it was."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import ROOT, RUN, UNET
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import segframe
from segframe.training.module import SegmentationModule


def process_state():
    return {
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "loggers": (list(logging.root.handlers), logging.root.level, logging.raiseExceptions),
        "lightning": logging.getLogger("pytorch_lightning").level,
        "warnings": list(warnings.filters),
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "torch": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32),
        "choice of kernels": torch.backends.cudnn.benchmark,
        "threads": threading.excepthook,
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    return tmp_path


def test_import_is_light_and_lists_the_public_names():
    names = {"load", "train", "evaluate", "compare", "network", "plan"}
    code = f"import segframe, sys; assert {names} <= set(dir(segframe)); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert not {"torch", "hydra", "numpy"} & set(done.stdout.split()), done.stderr
    assert "segframe" in done.stdout
    with pytest.raises(AttributeError, match="has no attribute 'lead'"):
        _ = segframe.lead
    for name in segframe.__all__:
        assert getattr(segframe, name) is not None


def test_a_network_for_a_loop_of_ones_own(folder):
    before = process_state()
    network = segframe.network("backbone=resnet18", "head=fcn", "data.weights=null", num_classes=5)
    assert process_state() == before
    assert list(folder.iterdir()) == []
    images = torch.zeros(2, 3, 40, 64, dtype=torch.uint8)
    assert network.training
    assert network(images).shape == (2, 5, 40, 64)
    with pytest.raises(segframe.UserError, match=r"head.rates is a setting of head="):
        segframe.network("backbone=resnet18", "head=fcn", "head.rates=[1]", num_classes=5)
    with pytest.raises(segframe.UserError, match="num_classes=0: it must be 1 or more"):
        segframe.network(num_classes=0)


def test_settings_are_texts(folder):
    with pytest.raises(segframe.UserError, match=r"a text, not a list; type segframe.train\(\*settings\)"):
        segframe.train(["model=fcn8s"])


def test_training_and_evaluation(run, folder, capfd, monkeypatch):
    before = process_state()
    result = segframe.train(*UNET, *RUN, "deterministic=true", "output_dir=first")
    assert process_state() == before
    assert result.folder == folder / "first"
    assert result.best == json.loads((folder / "first/result.json").read_text())["best"]
    assert result.metrics["val/miou"] <= result.best
    assert json.loads((folder / "first/environment.json").read_text())["command"][0] == "train"

    monkeypatch.setenv("COLUMNS", "100")  # as the result's own table
    before = process_state()
    capfd.readouterr()
    found = segframe.evaluate("first", "split=test", "accelerator=cpu", "output_dir=figures")
    assert capfd.readouterr().out == ""
    assert process_state() == before
    program = run("scripts/evaluate.py", "checkpoint=first", "split=test", "accelerator=cpu", "output_dir=same")
    stored = json.loads((folder / "same/metrics.json").read_text())
    assert json.loads((folder / "figures/metrics.json").read_text()) == stored
    plain = {name: None if math.isnan(value) else value for name, value in found.metrics.items()}
    assert plain == {name: value for name, value in stored.items() if name.startswith("test/")}
    assert found.folder == folder / "figures"
    assert found.per_class["circle"]["iou"] == found.metrics["test/iou/circle"]
    assert sum(figures["pixels"] for figures in found.per_class.values()) == pytest.approx(1)
    assert str(found).splitlines()[1:] == program.out.splitlines()[1 : len(str(found).splitlines())]

    again = segframe.train("resume=first", "trainer.max_steps=7")
    assert again.folder == folder / "first"
    assert torch.load(folder / "first/checkpoints/last.ckpt")["global_step"] == 7
    assert segframe.load(again.folder, device="cpu").names == found.classes


WRONG = [
    (["modle=unet"], r"modle is not a setting; did you mean model\?"),
    (["-m", "seed=1,2"], "-m: settings are key=value"),
    (["resume=nowhere"], "resume=nowhere: no run to continue"),
    ([*UNET, "monitor=val/mIoU"], "monitor=val/mIoU: there is no such metric"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words[-1] for words, _ in WRONG])
def test_errors_are_exceptions(folder, capfd, words, message):
    before = process_state()
    with pytest.raises(segframe.UserError, match=message):
        segframe.train(*words)
    assert process_state() == before
    assert capfd.readouterr().err == ""
    assert not list(folder.glob("outputs/*/*"))


def test_errors_of_evaluation(folder):
    with pytest.raises(segframe.UserError, match="there is no checkpoint nowhere"):
        segframe.evaluate("nowhere")


def test_one_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(segframe.UserError, match=r"segframe\.train: this is one of several processes"):
        segframe.train()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_is_a_keyboard_interrupt(folder, monkeypatch, times):
    """Once: after a checkpoint. Twice: at once. The process of a notebook goes on."""
    steps, step = [], SegmentationModule.training_step

    def interrupted(module, batch, index):
        steps.append(index)
        for _ in range(times if len(steps) == 2 else 0):
            signal.raise_signal(signal.SIGINT)
        return step(module, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", interrupted)
    before = process_state()
    with pytest.raises(KeyboardInterrupt):
        segframe.train(*UNET, *RUN, "output_dir=first")
    assert process_state() == before
    assert (folder / "first/checkpoints/last.ckpt").is_file() == (times == 1)
    if times == 1:
        assert segframe.train("resume=first").metrics
        assert len(steps) == 5


def test_training_in_a_thread(folder):
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(segframe.train, *UNET, *RUN, "output_dir=first").result()
    assert (result.folder / "config.yaml").is_file()
