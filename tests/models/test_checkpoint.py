"""Reading of checkpoint files: as data, never as code; what is damaged, foreign or incomplete is refused."""

import pickle

import pytest
import torch
from conftest import build_network, composed

from segframe.errors import UserError
from segframe.models.weights import checkpoint
from segframe.models.weights.third_party import read_weights

SMALL = ("backbone=unet", "backbone.channels=[4,8]", "head=unet", "head.reads=[c2,c1]", "head.channels=[4]")


def small_checkpoint(*overrides):
    """A small U-Net of three classes, and the content of its checkpoint."""
    config = composed(*SMALL, *overrides)
    network = build_network(*SMALL, *overrides, classes=3)
    state = {f"segmenter.{name}": tensor for name, tensor in network.state_dict().items()}
    return network, {
        checkpoint.KEY: checkpoint.describe(config, ("k0", "k1", "k2"), [(0, 0, 0)] * 3),
        "state_dict": state,
    }


def test_pickled_models_and_other_files_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"it holds a torch\.nn\..*Linear; .*save the state_dict\(\) alone"):
        checkpoint.load_file(tmp_path / "model.pth")
    (tmp_path / "text.pth").write_text("# a text\n")
    with pytest.raises(UserError, match=r"it is damaged, or no file that torch\.save wrote"):
        checkpoint.load_file(tmp_path / "text.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(UserError, match="it holds a list, not a dictionary"):
        checkpoint.load_file(tmp_path / "list.pth")
    torch.save({"state_dict": {"x": 1}}, tmp_path / "numbers.pth")
    with pytest.raises(UserError, match="holds no state dict of tensors"):
        checkpoint.load_state_dict(tmp_path / "numbers.pth")
    (tmp_path / "run").mkdir()
    for path, message in (("nowhere", "there is no checkpoint"), ("run", "a folder without checkpoints/best.ckpt or")):
        with pytest.raises(UserError, match=message):
            checkpoint.find_checkpoint(tmp_path / path)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path, capsys):
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(Malicious()))
    torch.save({"state_dict": Malicious()}, tmp_path / "y.ckpt")
    for name in ("x.ckpt", "y.ckpt"):
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            checkpoint.load_run(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("classes", [1, 2, 3]),
        ("classes", None),
        ("classes", ["a", "b"]),
        ("palette", [[0, 0]] * 3),
        ("palette", [[0, 0, 256]] * 3),
        ("palette", [[float("inf"), 0, 0]] * 3),
        ("config", {"normalize": None}),
        ("config", [1]),
        ("state_dict", {"segmenter.x": 3}),
        ("state_dict", {3: torch.zeros(1)}),
    ],
)
def test_incomplete_descriptions_are_refused(tmp_path, place, value):
    _, content = small_checkpoint()
    (content if place == "state_dict" else content[checkpoint.KEY])[place] = value
    torch.save(content, tmp_path / "x.ckpt")
    for reader in (checkpoint.load_run, read_weights):
        with pytest.raises(UserError, match=r"x\.ckpt is not a segframe checkpoint"):
            reader(tmp_path / "x.ckpt")


def test_references_to_other_settings_are_resolved():
    _, content = small_checkpoint()
    content[checkpoint.KEY]["config"] |= {"seed": 7, "notes": {"seeds": ["${seed}", "number ${..seeds[0]}"]}}
    metadata, _ = checkpoint.parse_run(content, "x.ckpt")
    assert metadata.config["notes"] == {"seeds": [7, "number 7"]}
    content[checkpoint.KEY]["config"]["seed"] = "${nowhere}"
    with pytest.raises(UserError, match=r"x\.ckpt: its config cannot be resolved \(.*nowhere"):
        checkpoint.parse_run(content, "x.ckpt")


@pytest.mark.parametrize("value", [{"${oc.env:SECRET}": 1}, [{"y": "${oc.decode:${oc.env:SECRET}}"}], "$${seed}"])
def test_configs_that_compute_are_refused(value):
    _, content = small_checkpoint()
    content[checkpoint.KEY]["config"]["data"] = value
    with pytest.raises(UserError, match=r"x\.ckpt: its config computes values"):
        checkpoint.parse_run(content, "x.ckpt")
