"""What tests share: composed configs, and the programs as a user runs them, in this process."""

import copy
import csv
import functools
import gc
import logging
import os
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.config import schema as schema
from segframe.errors import UserError
from segframe.models.build import build_normalize, build_segmenter, load_initial_weights
from segframe.models.weights.third_party import read_weights

ROOT = Path(__file__).parents[1]
options = schema.options
schema.register()
if "PYTEST_XDIST_WORKER" in os.environ:  # one of as many processes as there are cores; and the programs they start
    os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, torch.get_num_threads()))))


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection: its full passes took a tenth of the tests' time."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 50)


def pytest_unconfigure() -> None:
    gc.unfreeze()


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """A config as the command line would compose it; a copy of one's own."""
    config = copy.deepcopy(_composed(overrides, name))
    if "output_dir" in config:
        config.output_dir = "outputs/test"
    return config


@functools.cache
def _composed(overrides: tuple[str, ...], name: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(name, list(overrides))


def initialize_from(segmenter, config, classes):
    """Load config.init_from as a run does."""
    weights = read_weights(config.init_from)
    if weights.normalize != config.normalize:
        config.normalize.merge_with(weights.normalize)
        segmenter.normalize = build_normalize(config.normalize)
    load_initial_weights(segmenter, weights, config, classes)


def build_network(*overrides, classes=21):
    """The network of a config."""
    return build_segmenter(composed(*overrides), classes)


# Heads that need a backbone of their own, made small.
OWN_BACKBONE = {
    "segnet": ("vgg16_bn_indices", []),
    "unet_original": ("unet_original", ["backbone.channels=[4,8,8,8,8]", "backbone.dropout=0"]),
    "deeplabv2_vgg16": ("vgg16_aspp", ["backbone.fc_channels=16", "backbone.dropout=0"]),
}


class PeakElements(TorchDispatchMode):
    """Records the number of elements of the largest float tensor."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.elements = max(self.elements, out.numel())
        return out


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to within 1e-5 of the largest value."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run train.py or a script: run("train.py", "data=voc") -> code, out (both streams), error (the line of it)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hydra, "get_mode", lambda *args, **kwargs: None)  # it composes all once more for a null

    def call(script: str, *arguments: object) -> SimpleNamespace:
        capfd.readouterr()
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        finally:  # of the run's log, which the end of a process would close
            for handler in [handler for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)]:
                logging.root.removeHandler(handler)
                handler.close()
        captured = capfd.readouterr()
        out = captured.out + captured.err
        errors = [line for line in out.splitlines() if line.startswith("error: ")]
        if errors:
            assert (code, len(errors), "Traceback" in out or "Error executing" in out) == (1, 1, False), out
        return SimpleNamespace(code=code, out=out, error="".join(errors))

    return call


# A few small images, and networks that learn them in a second or two.
IMAGES = (
    "data.dataset.size=32",
    "data.dataset.num_images={train: 12, val: 3, test: 2}",
    "data.crop_size=32",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
)
TINY = ("backbone=resnet18", "head=fcn", *IMAGES)
UNET = ("backbone=unet", "head=unet", "backbone.channels=[4,4,4,4,4]", "head.channels=[4,4,4,4]", *IMAGES)
# And how long it runs.
RUN = ("trainer.max_steps=5", "trainer.val_every_n_steps=2", "callbacks=none", "logger=none")


ONNX = ("onnx", "onnxscript", "onnxruntime")


def rows(path):
    """The lines of a CSV file, as dicts."""
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trained(run, tmp_path, tmp_path_factory):
    """The folder of a finished run: trained once, copied for every other test."""
    folder, kept = tmp_path / "first", tmp_path_factory.getbasetemp() / "trained"
    if kept.is_dir():
        shutil.copytree(kept, folder)
    else:
        result = run("train.py", *UNET, *RUN, "output_dir=first")
        assert result.code == 0, result.out
        shutil.copytree(folder, kept)
    return folder


@pytest.fixture
def exported(run, trained, tmp_path, tmp_path_factory):
    """The folder of `trained` as first/ with its files model.onnx and, without scores, classes.onnx: exported once."""
    onnx, *_ = (pytest.importorskip(name, reason="needs pip install segframe[export]") for name in ONNX)
    from segframe.inference.export_graph import without_scores

    kept = tmp_path_factory.getbasetemp() / "exported"
    if not kept.is_dir():
        result = run("scripts/export.py", "checkpoint=first", "output=model.onnx", "scores=true")
        assert result.code == 0, result.out
        onnx.save(without_scores(onnx.load("model.onnx")), "classes.onnx")
        kept.mkdir()
        for name in ("model.onnx", "classes.onnx"):
            shutil.copy(name, kept)
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """The error of a run that does not start: refused("aux_head=fcn", {"trainer.max_steps": 0}) -> message."""
    from segframe.training.run import train

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("segframe.training.run.find_run_dir", lambda config: (tmp_path / "run", False))

    def call(*words: str | dict) -> str:
        config = composed(*UNET, *(word for word in words if isinstance(word, str)))
        for settings in (word for word in words if isinstance(word, dict)):
            for key, value in settings.items():
                OmegaConf.update(config, key, value, force_add=True)
        with pytest.raises(UserError) as error:
            train(config)
        assert not [path for path in (tmp_path / "run").iterdir() if not path.name.startswith("events.")]
        return str(error.value)

    return call


SIZE = (48, 64)


def photo(seed):
    """Blobs, unlike those of other seeds."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return np.array(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def mask_of(seed):
    return np.random.default_rng(seed).integers(0, 3, (6, 8), np.uint8).repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def photos(tmp_path):
    """A sound folder: 6 images for training, 3 for validation."""
    for part, seeds in (("train", range(6)), ("val", range(10, 13))):
        for kind in ("images", "masks"):
            (tmp_path / "photos" / kind / part).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(photo(seed)).save(tmp_path / f"photos/images/{part}/{seed}.png")
            Image.fromarray(mask_of(seed)).save(tmp_path / f"photos/masks/{part}/{seed}.png")
    return tmp_path / "photos"
