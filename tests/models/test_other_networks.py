"""Weights of another network are refused, in both directions; what files hold beside a backbone is known by name."""

from importlib.util import find_spec

import pytest
import torch
from conftest import composed, initialize_from
from references import load
from test_backbones import make
from torchvision.models import get_model

from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.weights import checkpoint, pretrained

FAMILIES = [
    ("resnet18", "resnet34"),
    ("resnet50", "resnet101", "resnet152"),
    ("vgg11", "vgg13", "vgg16", "vgg19"),
    ("vgg16_bn", "vgg19_bn"),
    ("vgg11", "vgg11_bn"),
    ("xception41", "xception65", "xception71"),
]
PAIRS = [
    *((name, family[k - 1]) for family in FAMILIES for k, name in enumerate(family)),
    ("resnet18", "resnet50"),
    ("vgg16_fc", "vgg19"),
    ("vgg16_largefov", "vgg16_bn"),
]


def tensors(name):
    """The state dict of a classifier, without values."""
    with torch.device("meta"):
        network = make(name, "backbone.weights=null") if name.startswith("xception") else get_model(name)
        return network.state_dict()


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_a_file_of_another_network_is_refused(name, other, monkeypatch):
    monkeypatch.setattr(pretrained, "read_file", lambda path: tensors(other))
    with torch.device("meta"), pytest.raises(UserError, match=f"it is a file of {other}: choose backbone={other}"):
        make(name, f"backbone.weights={__file__}")


@pytest.mark.parametrize("names", [("resnet18", "resnet34"), ("resnet34", "resnet18")])
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_a_file_of_another_timm_network_is_refused(names, monkeypatch):
    import timm

    with torch.device("meta"):
        files = {name: timm.create_model(name).state_dict() for name in names}
        for name in names:
            monkeypatch.setattr(pretrained, "read_file", lambda path, name=name: files[name])
            words = ("timm", f"backbone.variant={names[0]}", f"backbone.weights={__file__}")
            if name == names[0]:
                assert make(*words).features["c5"].channels == 512
            else:
                with pytest.raises(UserError, match=f"it is a file of {name}: choose backbone.variant={name}"):
                    make(*words)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_the_name_of_a_timm_file_counts(tmp_path):
    import timm

    for stem, reason in (
        ("convnext_atto_d2-01bb0f51", r"it is a file of convnext_atto: choose backbone\.variant=convnext_atto, or"),
        ("mine", "give the file of timm's resnet18, without further tensors"),
    ):
        path = tmp_path / f"{stem}.pth"
        torch.save(timm.create_model("convnext_atto").state_dict(), path)
        missing = r"it has no tensor conv1\.weight \(100 of the network's 12[02] are missing\), and 124 of its tensors "
        with pytest.raises(
            UserError, match=rf"backbone\.weights={path}: {missing}.*\(stem\.0\.weight \.\.\.\); {reason}"
        ):
            make("timm", "backbone.variant=resnet18", f"backbone.weights={path}")


def test_known_leftovers_are_reported_in_one_line(tmp_path, caplog):
    state = get_model("resnet18").state_dict()
    state = {f"module.{name}": tensor for name, tensor in state.items()} | {"ema.conv1.weight": torch.zeros(1)}
    del state["module.bn1.num_batches_tracked"]
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}
    wrapped = {"state_dict": state, "state_dict_ema": state, "optimizer": optimizer, "epoch": 3}
    torch.save(wrapped, tmp_path / "x.pth")
    words = ("resnet18", f"backbone.weights={tmp_path / 'x.pth'}")
    with caplog.at_level("INFO"):
        assert torch.equal(make(*words).conv1.weight, state["module.conv1.weight"])
    assert [record.message for record in caplog.records] == [
        f"backbone.weights={tmp_path / 'x.pth'}: 3 tensors are not needed: those of ema, fc"
    ]
    torch.save({f"backbone.{name}": tensor for name, tensor in state.items()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"a whole network: start from it with init_from=.*x\.pth"):
        make(*words)
    torch.save(wrapped | {"state_dict": state | {"neck.0.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=r"1 of its tensors are none of this network's \(neck\.0\.weight \.\.\.\); give"
    ):
        make(*words)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("vainf_deeplabv3_resnet101", ["model=deeplabv3"], r"255 of its tensors are none .*backbone\.layer3\.6\..*bac"),
        ("vainf_deeplabv3_resnet50", ["model=deeplabv3", "backbone=resnet101"], r"no tensor backbone\.layer3\.6\."),
        ("vainf_deeplabv3plus_resnet50", ["model=deeplabv3"], r"head\..* choose the head of these weights"),
        ("fcn32s", ["model=fcn32s_original", "backbone.fc6_kernel=3"], r"its backbone\.fc6\.weight has the shape"),
        ("unet", ["model=unet_bilinear"], "choose the (backbone|head) of these weights"),
    ],
)
def test_init_from_another_network_is_refused(name, words, message, monkeypatch):
    state = {key: torch.empty(shape, device="meta") for key, (shape, _) in load(name).keys.items()}
    monkeypatch.setattr(checkpoint, "find_checkpoint", lambda path: path)
    monkeypatch.setattr(checkpoint, "load_file", lambda path: state)
    config = composed(*words, "init_from=x.pth")
    with torch.device("meta"), pytest.raises(UserError, match=rf"init_from=x\.pth: .*{message}"):
        initialize_from(build_segmenter(config, 21), config, tuple("abc"))
