"""Every YAML composes and names what exists; the rules that keep presets, recipes and the command line apart."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, composed, options
from omegaconf import OmegaConf

from segframe.config import validate
from segframe.errors import UserError

GROUPS = sorted(path.name for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "script")
OPTIONS = [(group, option) for group in GROUPS for option in options(group)]
OF_SCRIPTS = {"inference", "postprocess"}
"""Groups that say how a trained network is used: evaluate.yaml and predict.yaml list them, train.yaml does not."""
FOLDER = ["data.root=photos", "data.dataset.classes=[road,sky]"]


def plain(path):
    return OmegaConf.to_container(OmegaConf.load(path))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_names_what_exists(group, option):
    if group in OF_SCRIPTS:
        config = composed(f"{group}={option}", "checkpoint=x", "input=x", "output=x", name="predict")
    else:
        config = composed(f"{group}={option}", *(FOLDER if (group, option) == ("data", "folder") else []))
        validate.check_keys(config)
    validate.check_targets(config)


@pytest.mark.parametrize("model", options("model"))
def test_models_only_choose(model):
    assert set(plain(ROOT / f"configs/model/{model}.yaml")) == {"defaults"}


def tuned_and_pinned(experiment):
    """The groups that a recipe and those it builds on set values of, and those they choose."""
    recipe = plain(ROOT / f"configs/experiment/{experiment}.yaml")
    pinned, tuned = set(), set(GROUPS)
    for line in recipe.pop("defaults", []):
        if isinstance(line, str):
            base_tuned, base_pinned = tuned_and_pinned(line)
            recipe |= dict.fromkeys(base_tuned)
            pinned |= base_pinned
        else:
            pinned |= {key.removeprefix("override /") for key in line}
    return tuned & recipe.keys(), pinned


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_pin_what_they_tune(experiment):
    tuned, pinned = tuned_and_pinned(experiment)
    assert tuned <= pinned | {"trainer"}


@pytest.mark.parametrize("path", [p for g in ("model", "experiment") for p in sorted((ROOT / "configs" / g).glob("*"))])
def test_presets_begin_with_their_package(path):
    assert path.read_text().startswith("# @package _global_\n")


def test_train_yaml_overrides_nothing():
    defaults = plain(ROOT / "configs/train.yaml")["defaults"]
    keys = [key for line in defaults if isinstance(line, dict) for key in line]
    assert not any("override" in key for key in keys)
    assert set(GROUPS) - OF_SCRIPTS == {key for key in keys if "@" not in key}


@pytest.mark.parametrize("script", ["evaluate", "predict"])
def test_the_scripts_list_their_groups(script):
    defaults = plain(ROOT / f"configs/{script}.yaml")["defaults"]
    assert {key for line in defaults if isinstance(line, dict) for key in line} >= OF_SCRIPTS


def test_the_command_line_wins_over_presets_in_any_order():
    for words in (["model=fcn8s", "backbone=resnet101"], ["backbone=resnet101", "model=fcn8s"]):
        config = composed(*words)
        assert config.backbone.variant == "resnet101"
        assert list(config.head.reads) == ["c5", "c4", "c3"]


def test_pretrained_weights_follow_the_data_and_strides_the_head():
    config = composed("model=fcn8s", "data=voc")
    assert config.backbone.weights == "imagenet"
    assert composed("model=fcn8s").backbone.weights is None
    assert composed("model=deeplabv3", "head.output_stride=16").backbone.output_stride == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+optimizer.lrr=3"], r"optimizer\.lrr: torch\.optim\.SGD takes no such argument; did you mean lr\?"),
        (["optimizer.lr=fast"], r"optimizer\.lr=fast: torch\.optim\.SGD expects float"),
        (["data.crop_size=[144,x]"], r"data\.crop_size=\[144, 'x'\]: .*RandomScaleCrop expects int \| list\[int\]"),
        (["head.rates=fast"], r"head\.rates=fast: .*DeepLabV3Plus expects list\[int\] \| null"),
        (["optimizer._target_=torch.optim.SDG"], r"optimizer\._target_=torch\.optim\.SDG: "),
        (["+transforms.train.0.sice=3"], r"transforms\.train\[0\]\.sice: .*; did you mean size\?"),
        (["optimizer.nesterov=2"], r"optimizer\.nesterov=2: torch\.optim\.SGD expects bool"),
    ],
)
def test_arguments_are_checked_before_anything_is_built(overrides, message):
    with pytest.raises(UserError, match=message):
        validate.check_targets(composed(*overrides))


@pytest.mark.parametrize("word", ["+optimzer.lr=3", "+data.batchsize=3", "+trainer.max_step=3", "+param_groups.x=1"])
def test_keys_outside_the_schema_are_refused(word):
    with pytest.raises(UserError, match=r"is not a setting; (did you mean|there is)"):
        validate.check_keys(composed(word))


def test_help_is_quick():
    before = os.times()
    out = subprocess.run([sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, check=True)
    seconds = os.times().children_user - before.children_user  # the machine may be busy with other tests
    assert re.search(r"^model +deeplabv1, deeplabv2", out.stdout, re.MULTILINE)
    assert "python train.py model=fcn8s data=voc" in out.stdout
    assert "shift_and_stitch" not in out.stdout
    code = "import sys, segframe.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert seconds < 2  # 0.5 s; importing torch would take longer than this


def test_output_may_be_cut_off():
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([sys.executable, ROOT / "train.py", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")
