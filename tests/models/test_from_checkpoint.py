"""Networks from checkpoints: today's, those of older versions, and those that must not be built."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, agree, build_network, rows
from hydra.utils import get_object
from test_checkpoint import small_checkpoint

from segframe.config.old_names import current_name, rename_targets
from segframe.errors import UserError
from segframe.models.from_checkpoint import rebuild, restore
from segframe.models.weights import checkpoint


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_restored_network_gives_the_same_logits():
    network, content = small_checkpoint("aux_head=fcn", "aux_head.reads=c2")
    torch.save(content, "x.ckpt")
    restored = restore("x.ckpt")
    images = torch.randint(0, 256, (1, 3, 33, 40), dtype=torch.uint8)
    assert torch.equal(restored.segmenter(images), network.eval()(images))
    assert restored.metadata.classes == ("k0", "k1", "k2")
    assert not restored.segmenter.training
    with pytest.raises(UserError, match=r"output_stride=8: segframe.* has a fixed output stride"):
        restore("x.ckpt", output_stride=8)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.load", r"x\.ckpt: backbone\._target_=torch\.load: this is no part.*: trust=\[torch\.load\]"),
        ("segframe.models.backbones.resnet.ResNet", "this is no part of segframe"),
        ("pytorch_lightning.callbacks.Timer", "this is no part of segframe"),
        ("segframe.models.heads.FCN", r"x\.ckpt: the network it describes cannot be built"),
        (["x"], "it must be the dotted name of a class"),
    ],
)
def test_only_public_classes_are_built(target, message):
    _, content = small_checkpoint()
    content[checkpoint.KEY]["config"]["backbone"]["_target_"] = target
    torch.save(content, "x.ckpt")
    with pytest.raises(UserError, match=message):
        restore("x.ckpt")


def test_networks_that_cannot_be_built_are_named():
    _, content = small_checkpoint()
    settings = content[checkpoint.KEY]["config"]
    for part, value in (
        ("backbone", settings["backbone"] | {"nowhere": 1}),
        ("backbone", settings["backbone"] | {"channels": [4, 4]}),
        ("normalize", {"mean": ["a"] * 3, "std": [1.0] * 3}),
        ("input_scales", [float("inf")]),
    ):
        torch.save(
            {**content, checkpoint.KEY: content[checkpoint.KEY] | {"config": settings | {part: value}}}, "x.ckpt"
        )
        with pytest.raises(UserError, match=r"x\.ckpt: the network it describes cannot be built"):
            restore("x.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    _, content = small_checkpoint()
    name = "backbone.stages.0.0.weight"
    content["state_dict"][f"segmenter.{name}"].fill_(value)
    torch.save(content, "x.ckpt")
    with pytest.raises(UserError, match=rf"x\.ckpt: {name} has values that are not finite"):
        restore("x.ckpt")
    path = Path("x.ckpt")
    assert rebuild(*checkpoint.load_run(path), path, diverged=True).segmenter.get_parameter(name).isfinite().sum() == 0


def test_the_first_versions_config_of_a_network_still_builds():
    """Settings that a later version adds get defaults; pretrained weights are not downloaded again."""
    backbone = {"_target_": "segframe.backbones.resnet.ResNet", "variant": "resnet18", "weights": "IMAGENET1K_V1"}
    head = {"_target_": "segframe.heads.deeplab.DeepLabV3Plus", "_partial_": True, "output_stride": 16, "rates": None}
    head |= {"dropout": 0.1, "separable": True, "num_convs": 2, "align_corners": False, "lr_multiplier": 1.0}
    config = {
        "backbone": backbone | {"output_stride": 16, "lr_multiplier": 1.0},
        "head": head,
        "aux_head": None,
        "normalize": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    }
    network = build_network("backbone=resnet18", "head=deeplabv3plus", classes=2)
    state = {f"segmenter.{name}": tensor for name, tensor in network.state_dict().items()}
    metadata = {"config": config, "classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]]}
    torch.save({checkpoint.KEY: metadata, "state_dict": state}, "old.ckpt")
    assert restore("old.ckpt").metadata.classes == ("a", "b")
    denser = restore("old.ckpt", output_stride=8).segmenter
    assert denser.backbone.features["c5"].stride == 8


@pytest.fixture
def old_run(tmp_path):
    """The folder of a run of version 0.1, whose config.yaml and checkpoint hold the names of that version."""
    return shutil.copytree(ROOT / "tests/fixtures/run_0.1", tmp_path / "old")


# As computed by version 0.1 from the same folder.
OLD_LOGITS = [-0.74398625, -0.81672168, -0.32715130, -0.52059305, 0.20874691, -0.10065138, 0.84321183, -0.96700001]
RESUMED_LOGITS = [-0.70031774, -0.85711813, -0.34442055, -0.49450105, 0.15460713, -0.08647764, 0.88206816, -0.96068656]


def logits_at_a_pixel(path):
    images = (torch.arange(3 * 40 * 48) * 37 % 256).view(1, 3, 40, 48).to(torch.uint8)
    with torch.no_grad():
        return restore(path).segmenter(images)[0, :, 7, 11]


def test_a_run_of_version_0_1_is_evaluated(old_run, run):
    agree(logits_at_a_pixel(old_run), torch.tensor(OLD_LOGITS))
    result = run("scripts/evaluate.py", "checkpoint=old", "accelerator=cpu", "output_dir=new")
    assert result.code == 0, result.out
    metrics = json.loads((old_run.parent / "new/metrics.json").read_text())
    assert metrics["val/miou"] == pytest.approx(0.008695652173913044)
    assert metrics["val/pixel_accuracy"] == pytest.approx(0.03716814159292035)


def test_a_run_of_version_0_1_is_resumed(old_run, run):
    result = run("train.py", "resume=old", "trainer.max_steps=6")
    assert result.code == 0, result.out
    agree(logits_at_a_pixel(old_run / "checkpoints/last.ckpt"), torch.tensor(RESUMED_LOGITS))
    last = rows(old_run / "metrics.csv")[-1]
    assert (last["step"], last["val/loss"], last["val/miou"]) == ("6", "3.40543", "0.00875185")
    config = checkpoint.load_file(old_run / "checkpoints/last.ckpt")[checkpoint.KEY]["config"]
    assert config["backbone"]["_target_"] == "segframe.models.backbones.UNetEncoder"
    assert config["callbacks"]["curves"]["_target_"] == "segframe.training.callbacks.TrainingCurves"


def targets(node):
    """Every `_target_` in nested containers."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for child in node.values() for target in targets(child)]
    return [target for child in node for target in targets(child)] if isinstance(node, list) else []


OLD_NAMES = {
    "segframe.backbones.timm.Timm": "segframe.models.backbones.TimmBackbone",
    "segframe.callbacks.Curves": "segframe.training.callbacks.TrainingCurves",
    "segframe.callbacks.LoaderReport": "segframe.training.callbacks.DataloaderReport",
    "segframe.data.voc.VOC": "segframe.data.VOC",
    "segframe.heads.summed.SummedScores": "segframe.models.heads.DeepLabV2",
    "segframe.inference.whole.Whole": "segframe.inference.WholeImage",
    "segframe.loggers.CSV": "segframe.training.CSVLogger",
    "segframe.losses.coarse.OnCoarseGrid": "segframe.models.losses.CoarseLabels",
    "segframe.losses.combined.Combined": "segframe.models.losses.WeightedSum",
    "segframe.schedulers.poly": "segframe.training.poly_lr",
    "segframe.sweep.SweepTable": "segframe.cli.SweepTable",
}


def test_old_names_stand_for_importable_parts(old_run):
    for old, new in OLD_NAMES.items():
        assert current_name(old) == current_name(new) == new
        assert callable(get_object(new))
    config = checkpoint.load_file(old_run / "checkpoints/last.ckpt")[checkpoint.KEY]["config"]
    old = [target for target in targets(config) if target.startswith("segframe.")]
    assert len(set(old)) > 10
    assert all(callable(get_object(target)) for target in targets(rename_targets(config)))
