"""A checkpoint is data from a stranger: nothing in it runs, and only our own parts are built from it."""

import copy
import pickle
import time
import tracemalloc
from resource import RUSAGE_SELF, getrusage
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from conftest import composed, initialize_from
from omegaconf import OmegaConf

from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.from_checkpoint import restore
from segframe.models.weights import checkpoint
from segframe.models.weights.third_party import load_what_fits, read_weights


def stored(*overrides, classes=3):
    config = composed("backbone=resnet18", "head=fcn", *overrides)
    segmenter = build_segmenter(config, classes)
    metadata = checkpoint.CheckpointMetadata(
        OmegaConf.to_container(config, resolve=True), tuple(f"k{k}" for k in range(classes)), ((0, 0, 0),) * classes
    )
    state = {f"segmenter.{name}": tensor for name, tensor in segmenter.state_dict().items()}
    return segmenter, {
        checkpoint.KEY: checkpoint.describe(OmegaConf.create(metadata.config), metadata.classes, metadata.palette),
        "state_dict": state,
    }


def test_a_network_comes_back_from_its_file_alone(tmp_path):
    segmenter, content = stored("aux_head=fcn", "backbone.weights=null")
    content[checkpoint.KEY]["config"]["backbone"]["weights"] = "IMAGENET1K_V1"  # is not downloaded again
    torch.save(content, tmp_path / "x.ckpt")
    restored = restore(tmp_path / "x.ckpt")
    images = torch.randint(0, 256, (1, 3, 33, 40), dtype=torch.uint8)
    assert torch.equal(restored.segmenter(images), segmenter.eval()(images))
    assert restored.metadata.classes == ("k0", "k1", "k2")
    assert not restored.segmenter.training


def test_whole_models_and_other_files_are_told(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"it holds a torch\.nn\..*Linear; .*save the state_dict\(\) alone"):
        checkpoint.load_file(tmp_path / "whole.pth")
    (tmp_path / "text.pth").write_text("# a text\n")
    with pytest.raises(UserError, match=r"it is damaged, or no file that torch\.save wrote"):
        checkpoint.load_file(tmp_path / "text.pth")


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    with (tmp_path / "x.ckpt").open("wb") as file:
        pickle.dump(Malicious(), file)
    torch.save({"state_dict": Malicious()}, tmp_path / "y.ckpt")
    for name in ("x.ckpt", "y.ckpt"):
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            restore(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "os.system",
        "segframe.models.backbones.resnet.get_model",
        "segframe.models.heads.FCN",
    ],
)
def test_only_our_own_backbones_are_built(tmp_path, target):
    _, content = stored()
    content[checkpoint.KEY]["config"]["backbone"]["_target_"] = target
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=rf"asks for {target}, which is none of .*segframe\.backbones\.resnet\.ResNet"):
        restore(tmp_path / "x.ckpt")


def test_a_compressed_checkpoint_is_not_inflated(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(10_000_000)}}, tmp_path / "plain.pth")
    path = tmp_path / "bomb.pth"
    with ZipFile(tmp_path / "plain.pth") as plain, ZipFile(path, "w", ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match=r"bomb\.pth is compressed, as torch\.save writes no file"):
        checkpoint.load_file(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_members_that_share_their_bytes_are_not_read(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"x": torch.zeros(100_000)}, path)
    with ZipFile(path, "a") as archive:
        twins = [copy.copy(max(archive.infolist(), key=lambda member: member.file_size)) for _ in range(100)]
        for k, twin in enumerate(twins):
            twin.filename = f"x/{k}"
        archive.filelist += twins
        archive._didModify = True
    with pytest.raises(UserError, match="is compressed"):
        checkpoint.load_file(path)


def nested(depth, twice):
    """Lists within each other, each one named twice: in memory and in a file hardly more than the depth."""
    node = ["a"]
    for _ in range(depth):
        node = [node, node] if twice else [node]
    return node


@pytest.mark.parametrize(
    "part",
    [
        {"classes": [nested(60, twice=True)] * 3},
        {"classes": [nested(200, twice=False)] * 3},
        {"classes": "abc", "palette": 3},
        {"classes": [1, 2, 3]},
        {"classes": [f"{k}" for k in range(1000)], "palette": [[0, 0, 0]] * 1000},
        {"classes": [], "palette": []},
        {"palette": [[float("inf"), 0, 0]] * 3},
        {"palette": [[-1, 999, 0]] * 3},
        {"palette": [[0.5, 0, 0]] * 3},
        {"config": {"backbone": nested(60, twice=True)}},
        {"config": {"backbone": nested(200, twice=False)}},
        {"config": {"backbone": {"channels": [10**30]}}},
        {"config": {"backbone": {"channels": torch.zeros(1)}}},
        {"config": {"backbone": "x" * 2_000_000}},
    ],
)
def test_what_a_checkpoint_says_is_plain_and_small(tmp_path, part):
    _, content = stored()
    content[checkpoint.KEY]["config"] |= part.pop("config", {})
    content[checkpoint.KEY] |= part
    torch.save({**content, "state_dict": {}}, tmp_path / "x.ckpt")
    start = time.perf_counter()
    with pytest.raises(UserError, match="is not a segframe checkpoint: it does not say how its network is built"):
        restore(tmp_path / "x.ckpt")
    assert time.perf_counter() - start < 1


def test_a_state_dict_has_names(tmp_path):
    _, content = stored()
    content["state_dict"][3] = torch.zeros(1)
    torch.save(content, tmp_path / "x.ckpt")
    for reader in (restore, read_weights):
        with pytest.raises(UserError, match="is not a segframe checkpoint"):
            reader(tmp_path / "x.ckpt")


def test_endless_input_scales_are_told(tmp_path):
    _, content = stored()
    content[checkpoint.KEY]["config"]["input_scales"] = [float("inf")]
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="the network it describes cannot be built"):
        restore(tmp_path / "x.ckpt")


@pytest.mark.parametrize("channels", [[64, 9000], [64, 10**6], [1] * 200_000])
@pytest.mark.parametrize("state", [{}, {"segmenter.x": torch.zeros(1).expand(10**6, 10**6)}])
def test_a_network_far_larger_than_its_file_is_not_built(tmp_path, channels, state):
    _, content = stored()
    unet = {"_target_": "segframe.models.backbones.UNetEncoder", "channels": channels, "padded": True}
    unet |= {"batch_norm": True, "dropout": 0.0, "lr_multiplier": 1.0}
    content[checkpoint.KEY]["config"]["backbone"] = unet
    torch.save({**content, "state_dict": state}, tmp_path / "x.ckpt")
    before, start = getrusage(RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError, match=r"far larger than its own weights|cannot be built"):
        restore(tmp_path / "x.ckpt")
    assert time.perf_counter() - start < 5
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 1 << 20  # in KiB


def test_data_that_a_checkpoint_names_are_a_dictionary(tmp_path, run):
    _, content = stored()
    content[checkpoint.KEY]["config"]["data"] = [1]
    torch.save(content, tmp_path / "x.ckpt")
    result = run("scripts/evaluate.py", "checkpoint=x.ckpt")
    assert result.code == 1
    assert "the checkpoint's data are no dictionary" in result.out
    assert "Traceback" not in result.out


def test_a_config_from_before_a_setting_still_builds(tmp_path):
    """Settings that a later version adds get defaults; this is the first version's config of a network."""
    config = {
        "backbone": {
            "_target_": "segframe.models.backbones.ResNet",
            "variant": "resnet18",
            "weights": None,
            "output_stride": 16,
            "lr_multiplier": 1.0,
        },
        "head": {
            "_target_": "segframe.models.heads.DeepLabV3Plus",
            "_partial_": True,
            "output_stride": 16,
            "rates": None,
            "dropout": 0.1,
            "separable": True,
            "num_convs": 2,
            "align_corners": False,
            "lr_multiplier": 1.0,
        },
        "aux_head": None,
        "normalize": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    }
    segmenter = build_segmenter(composed("backbone=resnet18", "head=deeplabv3plus"), 2)
    state = {f"segmenter.{name}": tensor for name, tensor in segmenter.state_dict().items()}
    metadata = checkpoint.CheckpointMetadata(config, ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    torch.save(
        {
            checkpoint.KEY: checkpoint.describe(OmegaConf.create(metadata.config), metadata.classes, metadata.palette),
            "state_dict": state,
        },
        tmp_path / "old.ckpt",
    )
    assert restore(tmp_path / "old.ckpt").metadata.classes == ("a", "b")


def test_load_what_fits():
    net = torch.nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(4), "x": torch.ones(1)}
    left_out, untouched = load_what_fits(net, state)
    assert left_out == ["bias (4,), here (3,)", "x (1,), not in this network"]
    assert untouched == ["bias"]
    assert net.weight.eq(1).all()
    left_out, _ = load_what_fits(net, {"bias": torch.ones(3)}, ("bias",))
    assert left_out == ["bias (3,), of other classes"]
    assert not net.bias.eq(1).all()


@pytest.mark.parametrize(("classes", "kept"), [(("k0", "k1", "k2"), True), (("a", "b", "c"), False)])
def test_scores_of_other_classes_are_not_taken(tmp_path, caplog, classes, kept):
    segmenter, content = stored("normalize=caffe")
    torch.save(content, tmp_path / "x.ckpt")
    config = composed("backbone=resnet18", "head=fcn", f"init_from={tmp_path / 'x.ckpt'}", "seed=1")
    other = build_segmenter(config, 3)
    with caplog.at_level("INFO"):
        initialize_from(other, config, classes)
    assert torch.equal(other.head.layers[0].weight, segmenter.head.layers[0].weight)
    assert torch.equal(other.head.layers[4].weight, segmenter.head.layers[4].weight) == kept
    assert ("left out: head.layers.4.weight (3, 128, 1, 1), of other classes" in caplog.text) != kept
    assert config.normalize.bgr
    assert other.normalize.bgr


def test_a_checkpoint_without_its_normalisation_is_no_checkpoint(tmp_path):
    _, content = stored()
    content[checkpoint.KEY]["config"]["normalize"] = None
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="does not say how its network is built"):
        read_weights(tmp_path / "x.ckpt")
