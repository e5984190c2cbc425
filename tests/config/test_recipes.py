"""The recipes of published results: how long, on what, and every parameter's learning rate and weight decay."""

import re

import pytest
import torch
from conftest import ROOT, composed, initialize_from, options
from omegaconf import OmegaConf

from segframe.config.instantiate import instantiate
from segframe.config.validate import check_needs
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.weights import checkpoint
from segframe.training.parameter_groups import group_parameters

# In multiples of the recipe's rate: backbone weights, head weights; biases are `bias` times as fast, norms as weights.
# decay: which kinds of parameters decay.
CAFFE = {"momentum": 0.9, "wd": 5e-4, "backbone": 1, "head": 10, "bias": 2, "decay": {"weight"}}
FCN = {"momentum": 0.99, "wd": 5e-4, "backbone": 1, "head": 1, "bias": 2, "decay": {"weight"}}
DEEPLABV3 = {"momentum": 0.9, "wd": 1e-4, "backbone": 1, "head": 1, "bias": 2, "decay": {"weight"}, "lr": 0.007}
ALL = {"weight", "bias", "norm", "norm bias"}
VAINF = {"momentum": 0.9, "wd": 1e-4, "backbone": 0.1, "head": 1, "bias": 1, "decay": ALL, "lr": 0.01}
COCO = {"momentum": 0.9, "wd": 1e-4, "backbone": 1, "head": 1, "aux_head": 10, "bias": 1, "decay": ALL, "lr": 0.02}
MMSEG = {"momentum": 0.9, "wd": 5e-4, "backbone": 1, "head": 1, "aux_head": 1, "bias": 1, "decay": ALL, "lr": 0.01}
MMSEG_LENGTHS = {
    "cityscapes": {"steps": 80_000, "batch": 8, "crop": [512, 1024]},
    "ade20k": {"steps": 160_000, "batch": 16, "crop": 512},
    "voc": {"steps": 40_000, "batch": 16, "crop": 512},
}
MMSEG_NAMES = {f"deeplab{v}_mmseg_{data}": data for v in ("v3", "v3plus") for data in MMSEG_LENGTHS}
PUBLISHED = {
    "fcn32s_voc": FCN | {"lr": 1e-10, "steps": 100_000, "batch": 1},
    "fcn16s_voc": FCN | {"lr": 1e-12, "steps": 100_000, "batch": 1},
    "fcn8s_voc": FCN | {"lr": 1e-14, "steps": 100_000, "batch": 1},
    "fcn8s-atonce_voc": FCN | {"lr": 1e-10, "steps": 300_000, "batch": 1},
    "fcn_alexnet_voc": FCN
    | {"lr": 1e-4, "momentum": 0.9, "bias": 1, "decay": {"weight", "bias"}, "steps": 100_000, "batch": 20},
    "deeplabv1_voc": CAFFE | {"lr": 1e-3, "steps": 6_000, "batch": 20, "crop": 321},
    "deeplabv2_vgg16_voc": CAFFE | {"lr": 1e-3, "steps": 20_000, "batch": 10, "crop": 321},
    "deeplabv2_vgg16_s_voc": CAFFE | {"lr": 1e-3, "steps": 20_000, "batch": 10, "crop": 321},
    "deeplabv2_voc": CAFFE | {"lr": 2.5e-4, "steps": 20_000, "batch": 10, "crop": 321, "fixed": {"norm", "norm bias"}},
    "deeplabv3_voc": DEEPLABV3 | {"steps": 30_000, "batch": 16, "crop": 513},
    "deeplabv3_voc_trainval": DEEPLABV3 | {"lr": 0.001, "steps": 30_000, "batch": 16, "crop": 513},
    "deeplabv3plus_voc": DEEPLABV3 | {"steps": 30_000, "batch": 16, "crop": 513},
    "deeplabv3plus_xception65_voc": DEEPLABV3 | {"steps": 30_000, "batch": 16, "crop": 513, "wd": 4e-5, "depthwise": 0},
    "deeplabv3_vainf_voc": VAINF | {"steps": 30_000, "batch": 16, "crop": 513},
    "deeplabv3plus_vainf_voc": VAINF | {"steps": 30_000, "batch": 16, "crop": 513},
    "deeplabv3_coco": COCO | {"epochs": 30, "batch": 32, "crop": 480},
    "fcn_coco": COCO | {"epochs": 30, "batch": 32, "crop": 480},
    "unet_carvana": {"momentum": 0.999, "wd": 1e-8, "lr": 1e-5, "backbone": 1, "head": 1, "bias": 1, "decay": ALL}
    | {"epochs": 5, "batch": 1},
    "segnet_camvid": {"momentum": 0.9, "wd": 5e-4, "lr": 1e-3, "backbone": 1, "head": 1, "bias": 2}
    | {"decay": {"weight", "norm"}, "steps": 40_000, "batch": 4},
    **{name: MMSEG | MMSEG_LENGTHS[data] for name, data in MMSEG_NAMES.items()},
}
OURS = {"camvid", "camvid_heads", "camvid_scratch", "shapes", "overfit", "upsampling"}


VOC = {"data.train_split": "trainaug", "data.val_split": "val"}
SBD = {"data.train_split": "sbdtrain", "data.val_split": "seg11valid"}
SUMMED = {"loss._target_": "segframe.models.losses.CrossEntropy", "loss.reduction": "sum"}
MEAN = {"loss._target_": "segframe.models.losses.CrossEntropy", "loss.reduction": "mean"}
COARSE = {"loss._target_": "segframe.models.losses.CoarseLabels", "loss.loss.reduction": "mean"}
POLY = {"scheduler._target_": "segframe.training.poly_lr", "scheduler.power": 0.9, "scheduler.min_factor": 0.0}
FIXED = {"scheduler._target_": "segframe.training.constant_lr"}
BGR, RGB = {"normalize.bgr": True, "normalize.std": [1, 1, 1]}, {"normalize.bgr": False}
WHOLE, MIRROR = {"transforms.train": []}, {"transforms.scale": [1.0, 1.0]}
STEPS_2 = {"transforms.scale": [0.5, 2.0], "transforms.scale_step": 0.25}
SLIM = {"batch_norm.backbone_momentum": 0.0003, "batch_norm.head_momentum": 0.0003}
V3 = VOC | MEAN | POLY | RGB | STEPS_2 | SLIM | {"head.align_corners": True, "head.output_stride": 16}
VAINF_SETTINGS = VOC | MEAN | POLY | RGB | {"scheduler.min_factor": 1e-4, "transforms.scale": [0.5, 2.0]}
VAINF_SETTINGS |= {"batch_norm.backbone_momentum": 0.01, "batch_norm.head_momentum": 0.1, "head.output_stride": 16}
VAINF_SETTINGS |= {"head.align_corners": False, "backbone.multi_grid": None, "head.dropout": 0.1}
MMSEG_SETTINGS = MEAN | POLY | RGB | {"scheduler.min_factor": 0.01, "output_weights.aux": 0.4, "aux_head.reads": "c4"}
MMSEG_SETTINGS |= {"transforms.scale_step": None, "transforms.max_class_share": 0.75, "head.align_corners": False}
MMSEG_SETTINGS |= {"head.output_stride": 8, "head.channels": 512, "head.fusion_kernel": 3, "head.dropout": 0.1}
MMSEG_DATA = {
    "cityscapes": {"data.dataset._target_": "segframe.data.Cityscapes", "transforms.scale": [0.5, 2.0]},
    "ade20k": {"data.dataset._target_": "segframe.data.ADE20K", "transforms.scale": [0.5, 2.0]},
    "voc": VOC,
}
COCO_SETTINGS = MEAN | POLY | RGB | {"output_weights.aux": 0.5, "aux_head.reads": "c4", "head.output_stride": 8}
SETTINGS = {
    **{f"fcn{stage}_voc": SBD | SUMMED | FIXED | BGR | WHOLE for stage in ("32s", "16s", "8s")},
    "fcn8s-atonce_voc": SBD | SUMMED | FIXED | BGR | WHOLE | {"head.scales": [1.0, 0.01, 0.0001]},
    "fcn_alexnet_voc": SBD | MEAN | FIXED | BGR | WHOLE,
    "deeplabv1_voc": VOC | COARSE | BGR | MIRROR
    | {"scheduler._target_": "segframe.training.step_lr", "scheduler.milestones": [2000, 4000]}
    | {"scheduler.factor": 0.1},
    "deeplabv2_vgg16_voc": VOC | COARSE | POLY | BGR | MIRROR | {"backbone.rates": [6, 12, 18, 24]},
    "deeplabv2_vgg16_s_voc": VOC | COARSE | POLY | BGR | MIRROR | {"backbone.rates": [2, 4, 8, 12]},
    "deeplabv2_voc": VOC | COARSE | POLY | BGR
    | {"transforms.scale": [0.5, 1.5], "transforms.scale_step": 0.25, "batch_norm.frozen": "all"}
    | {"input_scales": [0.75, 0.5], "head.rates": [6, 12, 18, 24], "head.output_stride": 8}
    | {f"output_weights.{name}": 1.0 for name in ("main", "scale_100", "scale_75", "scale_50")},
    "deeplabv3_voc": V3 | {"backbone.multi_grid": [1, 2, 4], "head.final_conv": False, "batch_norm.frozen": None},
    "deeplabv3_voc_trainval": V3 | {"backbone.multi_grid": [1, 2, 4], "head.final_conv": False}
    | {"data.train_split": "trainval", "head.output_stride": 8, "batch_norm.frozen": "statistics"},
    "deeplabv3plus_voc": V3 | {"head.separable": False, "head.num_convs": 2},
    "deeplabv3plus_xception65_voc": V3 | {"head.separable": True, "head.num_convs": 2, "normalize.mean": [127.5] * 3},
    "deeplabv3_vainf_voc": VAINF_SETTINGS | {"head.final_conv": True},
    "deeplabv3plus_vainf_voc": VAINF_SETTINGS | {"head.num_convs": 1, "head.separable": False},
    "deeplabv3_coco": COCO_SETTINGS | {"head.final_conv": True, "head.dropout": 0.5},
    "fcn_coco": COCO_SETTINGS | {"head.dropout": 0.1},
    "unet_carvana": FIXED | {"normalize.std": [255] * 3, "loss.weights": {"cross_entropy": 1.0, "dice": 1.0}}
    | {"trainer.gradient_clip_val": 1.0, "optimizer._target_": "torch.optim.RMSprop", "optimizer.alpha": 0.99},
    **{name: MMSEG_SETTINGS | MMSEG_DATA[data] for name, data in MMSEG_NAMES.items()},
    "segnet_camvid": FIXED | RGB | {"loss.reduction": "pixel_mean", "data.crop_size": [360, 480]}
    | {"transforms.scale": [1.0, 1.0], "data.train_split": "train"},
}  # fmt: skip


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_data_loss_length_and_network_are_the_published_ones(experiment):
    want, config = PUBLISHED[experiment], composed(f"experiment={experiment}")
    found = {key: OmegaConf.select(config, key) for key in SETTINGS[experiment]}
    assert found == SETTINGS[experiment]
    assert config.trainer.max_steps == want.get("steps")
    if "epochs" in want:
        assert config.trainer.max_epochs == want["epochs"]
    assert config.data.batch_size * config.trainer.accumulate_grad_batches == want["batch"]
    if "crop" in want:
        assert config.transforms.crop_size == want["crop"]


def test_every_recipe_is_checked():
    assert set(options("experiment")) == PUBLISHED.keys() | OURS


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_a_recipe_says_where_it_is_from_how_to_run_it_and_what_to_expect(experiment):
    header = re.match(r"(# .*\n)+", (ROOT / f"configs/experiment/{experiment}.yaml").read_text())[0]
    assert f"python train.py experiment={experiment}" in header
    assert re.search(r"# Expected.*\d", header)


def kind_of(network, name):
    """The kind of a parameter, told independently of the code under test."""
    layer = network.get_submodule(name.rpartition(".")[0])
    norm = isinstance(layer, torch.nn.BatchNorm2d)
    if name.endswith("bias"):
        return "norm bias" if norm else "bias"
    if norm:
        return "norm"
    return "depthwise" if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1 else "weight"


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_learning_rates_and_decays_are_the_published_ones(experiment):
    want = PUBLISHED[experiment]
    config = composed(f"experiment={experiment}")
    if "weights" in config.backbone:
        config.backbone.weights = None
    with torch.device("meta"):
        network = build_segmenter(config, 21)
    optimizer = instantiate(config.optimizer, "optimizer")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = group_parameters(network, optimizer, config.param_groups)
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    for name, parameter in network.named_parameters():
        kind = kind_of(network, name)
        frozen = kind in want.get("fixed", ()) or ("upscore" in name)
        assert parameter.requires_grad == (not frozen), name
        assert (name in found) == (not frozen), name
        if frozen:
            continue
        lr = want["lr"] * want[name.partition(".")[0]] * (want["bias"] if kind == "bias" else 1)
        decays = kind in want["decay"] or (kind == "depthwise" and "depthwise" not in want)
        assert found[name] == (pytest.approx(lr), pytest.approx(want["wd"] if decays else 0.0)), name
    assert optimizer.keywords["momentum"] == want["momentum"]


@pytest.mark.parametrize(
    ("experiment", "key"),
    [
        *((name, "init_from") for name in ("fcn16s_voc", "fcn8s_voc", "deeplabv3_voc_trainval")),
        *((name, "backbone.weights") for name in ("fcn32s_voc", "fcn8s-atonce_voc", "fcn_alexnet_voc")),
        *((name, "backbone.weights") for name in ("deeplabv1_voc", "deeplabv2_vgg16_voc", "deeplabv2_voc")),
        ("deeplabv3plus_xception65_voc", "backbone.weights"),
    ],
)
def test_what_a_recipe_starts_from_must_be_given(experiment, key):
    with pytest.raises(UserError, match=rf"{key} must be given: this recipe needs it.*needs=\[\]"):
        check_needs(composed(f"experiment={experiment}"))
    for setting, value in ((key, "file.pth"), ("needs", []), ("init_from", "runs/before")):
        config = composed(f"experiment={experiment}")
        OmegaConf.update(config, setting, value)
        check_needs(config)


def test_stages_of_fcn_hand_on_their_weights(tmp_path):
    """32s -> 16s -> 8s with init_from: every layer that the coarser network has, but its last upsampling."""
    small = ["backbone.fc_channels=8"]
    previous = None
    for stage in ("fcn32s", "fcn16s", "fcn8s"):
        words = [f"experiment={stage}_voc", *small, "backbone.weights=null"]
        config = composed(*words, *([f"init_from={previous}"] if previous else []))
        network = build_segmenter(config, 21)
        if previous:
            before = torch.load(previous, weights_only=True)["state_dict"]
            initialize_from(network, config, tuple(f"k{k}" for k in range(21)))
            own = network.state_dict()
            for name in ("backbone.layers.0.weight", "backbone.fc7.bias", "head.score.c5.weight"):
                assert torch.equal(own[name], before[f"segmenter.{name}"])
            if stage == "fcn8s":
                assert torch.equal(own["head.score.c4.weight"], before["segmenter.head.score.c4.weight"])
                assert torch.equal(own["head.upscore.0.weight"], before["segmenter.head.upscore.0.weight"])
        for parameter in network.head.score.parameters():
            torch.nn.init.normal_(parameter)
        plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        described = checkpoint.describe(plain, tuple(f"k{k}" for k in range(21)), ((0, 0, 0),) * 21)
        state = {f"segmenter.{name}": tensor for name, tensor in network.state_dict().items()}
        previous = tmp_path / f"{stage}.ckpt"
        torch.save({checkpoint.KEY: described, "state_dict": state}, previous)


@pytest.mark.parametrize(
    ("experiment", "head"), [("deeplabv3plus_mmseg_cityscapes", 17_697_923), ("deeplabv3_mmseg_cityscapes", 42_221_075)]
)
def test_heads_have_the_parameters_of_mmsegmentations(experiment, head):
    """Of 19 classes, counted by hand: image pooling, 1x1, three dilated 3x3, a 3x3 on 2,560 channels, decoder."""
    config = composed(f"experiment={experiment}")
    config.backbone.weights = None
    with torch.device("meta"):
        network = build_segmenter(config, 19)
    assert sum(parameter.numel() for parameter in network.head.parameters()) == head
    assert sum(parameter.numel() for parameter in network.aux_head.parameters()) == 2_364_691
