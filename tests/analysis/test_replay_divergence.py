"""Replaying a step whose loss was not finite: which image and which layer broke it."""

import pytest
import torch
from conftest import UNET, composed

from segframe.analysis import replay_divergence
from segframe.data.build import build_data_module, build_datasets
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.weights import checkpoint
from segframe.training.callbacks.divergence import Step, diverged
from segframe.training.module import SegmentationModule


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The file that a run leaves of a step whose loss was not finite."""
    path = tmp_path_factory.mktemp("run") / "diverged.pt"
    config = composed(*UNET, "trainer.precision=32-true")
    train_set, val_set = build_datasets(config)
    data, length = build_data_module(config, train_set, val_set)
    module = SegmentationModule(config, build_segmenter(config, 8), train_set, length)
    diverged(path, module, Step(3, next(iter(data.train_dataloader())), {"backbone": 0.1}, 7), float("nan"))
    return path


@pytest.mark.parametrize("where", ["weight", "layer", "loss", "nowhere"])
def test_diagnosis(path, where, monkeypatch):
    step = replay_divergence.load_step(path)
    layers = dict(step.segmenter.backbone.named_modules())
    name, layer = [(name, layer) for name, layer in layers.items() if isinstance(layer, torch.nn.Conv2d)][1]
    if where == "weight":
        with torch.no_grad():
            layer.weight[0] = float("nan")
    if where == "layer":
        layer.register_forward_hook(lambda module, inputs, output: output.index_fill(0, torch.tensor(2), float("inf")))
    if where == "loss":
        monkeypatch.setattr(CrossEntropy, "forward", lambda self, logits, mask: logits.values.sum() * float("inf"))
    again = replay_divergence.replay(step, torch.device("cpu"), "32-true")
    expected = {"weight": f"backbone.{name}.weight", "layer": f"backbone.{name} (Conv2d)", "loss": "loss"}
    sentence = replay_divergence.diagnose(again)
    assert expected.get(where, "finite here") in sentence
    assert ("finite here" in sentence) == (where == "nowhere")
    if where == "layer":
        assert again.images[2].layer == f"backbone.{name} (Conv2d)"
        assert again.images[1].layer != again.images[2].layer  # batch norm carries it on
    if where == "nowhere":
        assert sum(image.loss for image in again.images) > 0
        assert not any(image.layer for image in again.images)


def test_layers_that_their_parent_does_not_call(path):
    """Swin's attention passes the weights of its layers to a function."""
    step = replay_divergence.load_step(path)
    segmenter = build_segmenter(composed("backbone=swin_t", "head=fcn", "data.crop_size=32"), 8)
    name, layer = next((name, part) for name, part in segmenter.named_modules() if name.endswith("attn.proj"))
    with torch.no_grad():
        layer.weight.fill_(3e38)
    result = replay_divergence.replay(step._replace(segmenter=segmenter), torch.device("cpu"), "32-true")
    assert result.layer == f"{name.removesuffix('.proj')} (ShiftedWindowAttention)"


@pytest.mark.parametrize("key", ["batch", "seed", "learning_rates", "step"])
def test_incomplete_files(path, key, tmp_path):
    content = checkpoint.load_file(path)
    del content[key]
    torch.save(content, tmp_path / "less.pt")
    with pytest.raises(UserError, match=r"less\.pt"):
        replay_divergence.load_step(tmp_path / "less.pt")


def test_only_losses_of_segframe_are_built(path, tmp_path):
    content = checkpoint.load_file(path)
    content["segframe"]["config"]["loss"] = {"_target_": "os.mkdir", "path": "ran"}
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"os\.mkdir"):
        replay_divergence.load_step(tmp_path / "foreign.pt")


def test_replay_from_the_command_line(run, path, tmp_path):
    result = run("scripts/replay.py", f"checkpoint={path.parent}", "output_dir=pictures", "accelerator=cpu")
    assert result.code == 0, result.out
    assert "step 3, learning rate backbone 0.1: the loss was nan" in result.out
    assert "are finite here" in result.out
    names = checkpoint.load_file(path)["batch"]["name"]
    assert {file.name for file in (tmp_path / "pictures").glob("*.png")} == {
        f"{k:02}_{n}.png" for k, n in enumerate(names)
    }
    missing = run("scripts/replay.py", "checkpoint=.", "output_dir=pictures")
    assert missing.code == 1
    assert "error: checkpoint=.: there is no diverged.pt" in missing.out
