"""The finished config: what is resolved in it, and that config.yaml and checkpoints hold the same."""

import copy
import math

import pytest
import torch
from conftest import UNET, composed
from omegaconf import OmegaConf, ReadonlyConfigError

from segframe.data.build import build_datasets
from segframe.errors import UserError
from segframe.models.weights import checkpoint
from segframe.models.weights.third_party import Weights
from segframe.training import finish_config


def finished(folder, *words, resumes=False, weights=None):
    config = composed(*UNET, *words)
    config.output_dir = str(folder)
    train_set, _ = build_datasets(config)
    return finish_config.finish_config(config, resumes, train_set, weights)


def test_config_yaml_and_checkpoints_hold_the_same_config(trained):
    config = OmegaConf.to_container(OmegaConf.load(trained / "config.yaml"))
    for name in ("best", "last"):
        stored = checkpoint.load_file(trained / f"checkpoints/{name}.ckpt")[checkpoint.KEY]["config"]
        assert OmegaConf.to_container(OmegaConf.create(stored)) == config


def test_the_finished_config_is_read_only_and_complete(tmp_path):
    config = finished(tmp_path, "loss.class_weights=auto", "trainer.precision=auto")
    with pytest.raises(ReadonlyConfigError):
        config.optimizer.lr = 1.0
    assert config.resume is None
    assert config.monitor_mode == "max"
    assert config.trainer.precision in ("32-true", "bf16-mixed")
    assert len(config.loss.class_weights) == 8
    assert all(map(math.isfinite, config.loss.class_weights))
    assert "${data.crop_size}" in str(OmegaConf.to_container(config)), "references between settings stay"
    assert OmegaConf.missing_keys(config) == set()


def test_class_weights_within_a_sum_of_losses(tmp_path):
    words = ("loss=cross_entropy_dice", "loss.terms.cross_entropy.class_weights=auto")
    assert len(finished(tmp_path, *words).loss.terms.cross_entropy.class_weights) == 8


def test_resolvers_are_replaced_by_their_results(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    config = {"root": "${oc.env:SCRATCH}/photos", "seed": "${other}", "other": 1, "scales": [1, {"a": "${other}"}]}
    expected = config | {"root": "/scratch/photos"}
    assert finish_config.resolve_computed(OmegaConf.create(config)) == expected


def test_initial_weights_bring_their_normalization(tmp_path):
    normalize = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "bgr": True}
    weights = Weights({}, None, normalize, "segframe", {}, {})
    config = finished(tmp_path, "+backbone.weights=x.pth", weights=weights)
    assert config.normalize == normalize
    assert config.backbone.weights is None
    assert finished(tmp_path, resumes=True).resume == str(tmp_path)


@pytest.mark.parametrize(("capable", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_automatic_precision(monkeypatch, capable, expected):
    settings = composed("trainer.accelerator=cpu").trainer
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable}, raising=False)
    finish_config.finish_trainer(settings)
    assert settings.precision == expected


def test_clipped_half_precision_is_not_fused():
    settings = composed("trainer.precision=16-mixed", "trainer.gradient_clip_val=1").trainer
    clipped, free = copy.deepcopy(settings), copy.deepcopy(settings)
    free.gradient_clip_val = None
    finish_config.finish_trainer(clipped)
    finish_config.finish_trainer(free)
    assert (clipped.fused_optimizer, free.fused_optimizer) == (False, True)


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [("val/miou", "auto", "max"), ("val/loss", "auto", "min"), ("val/iou/circle", "max", "max")],
)
def test_monitor_mode(monitor, mode, expected):
    config = OmegaConf.create({"monitor": monitor, "monitor_mode": mode})
    assert finish_config.find_monitor_mode(config, ("background", "circle")) == expected


@pytest.mark.parametrize(
    ("monitor", "mode", "message"),
    [
        ("val/mIoU", "auto", r"monitor=val/mIoU: there is no such metric; did you mean val/miou\?"),
        ("val/miou", "min", "monitor_mode=min: val/miou is best where it is highest; set monitor_mode=max"),
        ("val/loss", "maximum", "monitor_mode=maximum: val/loss is best where it is lowest; set monitor_mode=min"),
    ],
)
def test_wrong_monitors(monitor, mode, message):
    with pytest.raises(UserError, match=message):
        finish_config.find_monitor_mode(OmegaConf.create({"monitor": monitor, "monitor_mode": mode}), ("background",))
