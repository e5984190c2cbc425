"""Every YAML composes, names public parts and keeps to the rules of its folder; every preset learns."""

import json
import warnings
from functools import cache
from itertools import zip_longest

import hydra.utils
import numpy as np
import pytest
import torch
from conftest import ROOT, build_network, composed, options, rows
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from segframe.cli.launchers import LAUNCHERS
from segframe.config import validate
from segframe.config.trust import foreign_parts
from segframe.inference import export_graph, onnx_network
from segframe.inference.export import run_torch
from segframe.inference.parity import MIN_AGREEMENT, SIZES, check_parity, sample_images

NO_PARTS = {"script", "hydra"}
"""Folders with settings of Hydra."""
GROUPS = sorted(path.name for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name not in NO_PARTS)
OF_SCRIPTS = {"postprocess"}
"""Groups that evaluate.yaml and predict.yaml list, and train.yaml does not."""
OF_SEARCH = {"pruner", "sampler", "search"}
"""Those of search.yaml, which are no parts of a run."""


@cache
def plain(path):
    return OmegaConf.to_container(OmegaConf.load(path))


def together(*groups):
    """Command lines that choose every option of these groups, one of each at once: composing takes the time."""
    columns = [[f"{group}={option}" for option in options(group)] for group in groups]
    return [[word for word in words if word] for words in zip_longest(*columns)]


PARTS = sorted(set(GROUPS) - OF_SCRIPTS - OF_SEARCH - {"model", "experiment"})


@pytest.mark.parametrize("words", [*together(*PARTS), *together("model"), *together("experiment")], ids=" ".join)
def test_every_option_composes(words):
    folder = ["data.root=photos", "data.dataset.classes=[road,sky]"] if "data=folder" in words else []
    config = composed(*words, *folder)
    validate.check_keys(config)
    validate.check_targets(config)
    assert foreign_parts(OmegaConf.to_container(config)) == {}


@pytest.mark.parametrize("words", together("inference", *OF_SCRIPTS), ids=" ".join)
def test_every_option_of_scripts_composes(words):
    config = composed(*words, "checkpoint=x", "input=x", "output=x", name="predict")
    validate.check_targets(config)
    assert foreign_parts(OmegaConf.to_container(config)) == {}


@pytest.mark.parametrize("words", together(*sorted(OF_SEARCH)), ids=" ".join)
def test_every_option_of_searches_composes(words):
    pytest.importorskip("optuna", reason="needs pip install segframe[search]")
    validate.check_targets(composed(*words, "study=s", name="search"), without=["search"])


@pytest.mark.parametrize("option", options("hydra/launcher"))
def test_every_launcher_composes_with_the_settings_of_its_plugin(option):
    package, extra = LAUNCHERS[option]
    pytest.importorskip(package, reason=f"needs pip install segframe[{extra}]")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray.yaml has the name of the plugin's own option
        config = compose("train", [f"hydra/launcher={option}"], return_hydra_config=True)
    launcher = OmegaConf.to_container(config.hydra.launcher)
    assert launcher["_target_"].startswith(f"{package}.")
    own = plain(ROOT / f"configs/hydra/launcher/{option}.yaml")
    assert launcher | {key: value for key, value in own.items() if key != "defaults"} == launcher


def test_every_target_is_public():
    files = [path for path in (ROOT / "configs").rglob("*.yaml") if ROOT / "configs/hydra" not in path.parents]
    nodes = [node for path in files for _, node in validate.walk(plain(path), "")]
    targets = {node["_target_"] for node in nodes if "_target_" in node}
    assert len(targets) > 40
    for target in targets:
        assert callable(hydra.utils.get_object(target)), target
        package, _, name = target.rpartition(".")
        if target.startswith("segframe."):
            package_ = hydra.utils.get_object(package)
            assert hasattr(package_, "__path__"), f"{target}: named by its package, so that files can move"
            assert name in package_.__all__, target


@pytest.mark.parametrize("model", options("model"))
def test_models_only_choose(model):
    assert set(plain(ROOT / f"configs/model/{model}.yaml")) == {"defaults"}


def tuned_and_pinned(experiment):
    """The groups that a recipe and those it builds on set values of, and those they choose."""
    recipe = dict(plain(ROOT / f"configs/experiment/{experiment}.yaml"))
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
def test_experiments_choose_the_groups_they_set_values_of(experiment):
    tuned, pinned = tuned_and_pinned(experiment)
    assert tuned <= pinned | {"trainer"}


def test_every_group_is_listed_where_it_is_used():
    def keys(name):
        defaults = plain(ROOT / f"configs/{name}.yaml")["defaults"]
        return {key for line in defaults if isinstance(line, dict) for key in line if "@" not in key}

    assert keys("train") == set(GROUPS) - OF_SCRIPTS - OF_SEARCH
    assert keys("evaluate") >= {"inference", *OF_SCRIPTS}
    assert keys("predict") >= {"inference", *OF_SCRIPTS}
    assert keys("search") >= OF_SEARCH


def test_the_command_line_wins_over_presets_in_any_order():
    for words in (["model=fcn8s", "backbone=resnet101"], ["backbone=resnet101", "model=fcn8s"]):
        config = composed(*words)
        assert config.backbone.variant == "resnet101"
        assert list(config.head.reads) == ["c5", "c4", "c3"]


def test_pretrained_weights_follow_the_data_and_strides_the_head():
    assert composed("model=fcn8s", "data=voc").backbone.weights == "imagenet"
    assert composed("model=fcn8s").backbone.weights is None
    assert composed("model=deeplabv3", "head.output_stride=16").backbone.output_stride == 16


VGG = ("backbone.dropout=0", "backbone.lr_multiplier=1", "head.lr_multiplier=1", "optimizer.lr=0.0003")
VGG_FC = ("backbone.fc_channels=64", *VGG)
# The papers' padding of 100 is what a 7x7 fc6 needs: a 3x3 one needs less.
PADDED = (*VGG_FC, "backbone.fc6_kernel=3", "backbone.input_padding=40")
NARROW = ("backbone.channels=[16,32,32,64,64]", "backbone.dropout=0", "optimizer.lr=0.001")
RESNET = ("optimizer.lr=0.001",)
SMALL = {
    "fcn32s": VGG_FC,
    "fcn16s": VGG_FC,
    "fcn8s": VGG_FC,
    "fcn8s-atonce": VGG_FC,
    "fcn32s_original": PADDED,
    "fcn16s_original": PADDED,
    "fcn8s_original": PADDED,
    "fcn8s-atonce_original": PADDED,
    "fcn_alexnet": VGG_FC,
    "fcn_alexnet_original": VGG_FC,
    "deeplabv1": VGG_FC,
    "deeplabv2_vgg16": VGG_FC,
    "deeplabv2_vgg16_s": VGG_FC,
    "deeplabv2": ("backbone.variant=resnet50", "head.lr_multiplier=1", *RESNET),
    "deeplabv3": ("backbone=resnet18", *RESNET),
    "deeplabv3plus": ("backbone=resnet18", *RESNET),
    "deeplabv3plus_xception65": ("backbone=xception41", *RESNET),
    "pspnet": ("backbone=resnet18", "head.channels=64", *RESNET),
    "segformer_mlp": ("backbone=resnet18", "head.channels=64", *RESNET),
    "segnet": ("backbone.variant=vgg11_bn", "head.depths=[1,1,1,1,2]", *RESNET),
    "unet": (*NARROW, "head.channels=[64,32,32,16]"),
    "unet_original": (*NARROW, "head.channels=[64,32,32,16]"),
    "unet_bilinear": (*NARROW, "head.channels=[32,32,16,16]"),
    "upernet": ("backbone=resnet18", "head.channels=64", *RESNET),
}
SIDE = 64


def four_images(folder):
    """Four images of four noisy, coloured quarters each, and masks that say which of four classes a quarter is."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind / "train").mkdir(parents=True)
    for k in range(4):
        colors, classes = rng.integers(0, 256, (2, 2, 3)), rng.integers(0, 4, (2, 2))
        image = colors.repeat(SIDE // 2, 0).repeat(SIDE // 2, 1) + rng.normal(0, 10, (SIDE, SIDE, 3))
        mask = classes.repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"images/train/{k}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"masks/train/{k}.png")


def test_every_preset_has_a_small_variant():
    assert SMALL.keys() == set(options("model"))


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_every_preset_learns_four_images_by_heart_and_is_exported(model, run, tmp_path):
    four_images(tmp_path / "photos")
    result = run(
        "train.py", f"model={model}", "data=folder", "data.root=photos", "data.dataset.classes=[a,b,c,d]",
        "data.val_split=train", f"data.crop_size={SIDE}", "data.batch_size=4", "data.num_workers=0",
        "data.weights=null", "transforms=none", "optimizer=adamw", "scheduler=constant", *SMALL[model],
        "callbacks=early_stopping", "callbacks.early_stopping.patience=1000", "monitor=val/pixel_accuracy",
        "+callbacks.early_stopping.stopping_threshold=0.95", "trainer.max_steps=300", "trainer.val_every_n_steps=20",
        "trainer.accelerator=cpu", "trainer.precision=32-true", "logger=none", "output_dir=run",
    )  # fmt: skip
    assert result.code == 0, result.out
    accuracies = [row["val/pixel_accuracy"] for row in rows(tmp_path / "run/metrics.csv")]
    assert float([value for value in accuracies if value][-1]) > 0.95

    for module in export_graph.MODULES:
        pytest.importorskip(module, reason="needs pip install segframe[export]")
    result = run("scripts/export.py", "checkpoint=run", "output=model.onnx")
    assert result.code == 0, result.out
    found = []
    for checkpoint in ("run", "model.onnx"):
        result = run(
            "scripts/evaluate.py",
            f"checkpoint={checkpoint}",
            "accelerator=cpu",
            "precision=32-true",
            "output_dir=metrics",
        )
        assert result.code == 0, result.out
        found.append(json.loads((tmp_path / "metrics/metrics.json").read_text())["train/miou"])
    assert found[0] > 0.9
    assert found[1] == pytest.approx(found[0], abs=1e-4)  # one of 16,384 pixels whose scores are equal


EXPORTED = {
    "convnext": ("backbone=convnext_tiny", "head=unet"),
    "mobilenet": ("backbone=mobilenetv2", "head=deeplabv3plus"),
    "lite0": ("backbone=efficientnet_lite0", "head=deeplabv3plus", "head.output_stride=32"),
    "bilinear_segnet": ("backbone=vgg11_bn", "head=segnet", "head.upsampling=bilinear", "head.depths=[1,1,1,1,1]"),
    "caffe_resnet": ("backbone=resnet50_caffe", "head=deeplabv3_paper", "normalize=caffe"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_other_networks_are_exported(name):
    """With random weights in place of zeros, which would make the check vacuous."""
    for module in export_graph.MODULES:
        pytest.importorskip(module, reason="needs pip install segframe[export]")
    if name in ("convnext", "mobilenet", "lite0"):
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    segmenter = build_network(*EXPORTED[name], classes=5)
    for parameter in segmenter.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    network = export_graph.Deployed(segmenter)
    program = export_graph.trace(network, sample_images(export_graph.TRACED, 3, torch.uint8), "format=onnx")
    model = export_graph.to_onnx(program, network, 20, "format=onnx")
    session = onnx_network.open_session(export_graph.add_metadata(model, {}))
    results = check_parity(
        lambda images: run_torch(network, images),
        lambda images: onnx_network.run_session(session, images),
        3,
        torch.uint8,
        "format=onnx",
    )
    assert len(results) == len(SIZES)
    assert min(result.agreement for result in results) >= MIN_AGREEMENT
