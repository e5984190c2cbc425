"""A loss that is no number ends the run: with its step, images and rates, and with what it was computed from."""

from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, composed

from segframe.analysis import replay_divergence
from segframe.data.build import build_data
from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.from_checkpoint import restore
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.weights import checkpoint
from segframe.training import build
from segframe.training.callbacks import divergence

LONG = (
    *TINY,
    "scheduler=constant",
    "trainer.max_steps=20",
    "trainer.val_every_n_steps=20",
    "callbacks=none",
    "logger=none",
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What a run leaves of a step whose loss was not finite."""
    folder = tmp_path_factory.mktemp("run")
    config = composed(*LONG, "trainer.precision=32-true")
    data, length = build_data(config)
    module = build.build_module(config, build_segmenter(config, 8), data.train, length)
    batch = next(iter(data.train_dataloader()))
    metadata = SimpleNamespace(
        trainer=SimpleNamespace(default_root_dir=folder), segmenter=module.segmenter, metadata=module.metadata
    )
    divergence.diverged(metadata, divergence.Step(3, batch, {"backbone": 0.1}, 7), float("nan"))
    return folder / "diverged.pt"


def test_a_run_that_diverges_ends_and_keeps_its_batch(run, tmp_path):
    result = run("train.py", *LONG, "optimizer.lr=1e30", "output_dir=run")
    assert result.code == 1
    assert "Traceback" not in result.out
    (line,) = [line for line in result.out.splitlines() if line.startswith("error: ")]
    content = checkpoint.load_file(tmp_path / "run/diverged.pt")
    assert f"the loss of step {content['step']} is {content['loss']}" in line
    assert "images train_00" in line
    assert "learning rate backbone " in line
    assert "lower optimizer.lr" in line
    assert "run/diverged.pt" in line
    assert content["batch"]["image"].shape == (4, 3, 32, 32)
    assert restore(tmp_path / "run/diverged.pt", diverged=True).segmenter is not None
    assert not list((tmp_path / "run/checkpoints").glob("*.ckpt"))

    result = run("scripts/replay.py", "checkpoint=run", "output_dir=pictures")
    assert result.code == 0, result.out
    assert f"step {content['step']}, learning rate backbone" in result.out
    assert f"the loss was {content['loss']}" in result.out
    for k, name in enumerate(content["batch"]["name"]):
        assert name in result.out
        assert (tmp_path / f"pictures/{k:02}_{name}.png").is_file()
    assert "not finite" in result.out


@pytest.mark.parametrize("where", ["weight", "layer", "loss", "nowhere"])
def test_a_replay_tells_what_is_not_finite(kept, where, monkeypatch):
    found = replay_divergence.read(kept)
    layers = dict(found.segmenter.backbone.named_modules())
    name, layer = [(name, layer) for name, layer in layers.items() if isinstance(layer, torch.nn.Conv2d)][1]
    with torch.no_grad():
        for module in found.segmenter.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if where == "weight":
            layer.weight[0] = float("nan")
    if where == "layer":
        layer.register_forward_hook(lambda module, inputs, output: output.index_fill(0, torch.tensor(2), float("inf")))
    if where == "loss":
        monkeypatch.setattr(CrossEntropy, "forward", lambda self, logits, mask: logits.values.sum() * float("inf"))
    again = replay_divergence.replay(found, torch.device("cpu"), "32-true")
    told = {
        "weight": f"the weights were broken before this step: backbone.{name}.weight not finite",
        "layer": f"backbone.{name} (Conv2d) made what is not",
        "loss": "the loss of these scores is not",
        "nowhere": "loss and gradient are finite here",
    }
    assert told[where] in replay_divergence.verdict(found, again)
    if where == "layer":
        assert again.images[2].broken == f"backbone.{name} (Conv2d)"
        assert again.images[1].broken != again.images[2].broken  # batch norm carries it on
    if where == "nowhere":
        assert sum(image.loss for image in again.images) > 0
        assert not any(image.broken for image in again.images)


@pytest.mark.parametrize("key", ["batch", "seed", "learning_rates", "step"])
def test_a_replay_needs_all_of_the_step(kept, key, tmp_path):
    content = checkpoint.load_file(kept)
    del content[key]
    torch.save(content, tmp_path / "less.pt")
    with pytest.raises(UserError, match=r"less\.pt holds no step of a run whose loss was not finite"):
        replay_divergence.read(tmp_path / "less.pt")


def test_a_replay_builds_no_strangers_loss(kept, tmp_path):
    content = checkpoint.load_file(kept)
    content["segframe"]["config"]["loss"] = {"_target_": "os.mkdir", "path": "ran"}
    torch.save(content, tmp_path / "stranger.pt")
    with pytest.raises(UserError, match=r"the checkpoint asks for os\.mkdir"):
        replay_divergence.read(tmp_path / "stranger.pt")


def hold_here(self, optimizer, device):
    self.held = optimizer.found_inf = torch.zeros((), device=device)


def test_weights_wait_for_a_late_answer(run, tmp_path, monkeypatch):
    assert run("train.py", *LONG, "trainer.max_steps=2", "trainer.val_every_n_steps=2", "output_dir=two").code == 0
    healthy, calls = CrossEntropy.forward, []

    def forward(self, logits, mask):
        if torch.is_grad_enabled() and not mask.is_meta:
            calls.append(1)
        loss = healthy(self, logits, mask)
        return loss * float("nan") if len(calls) == 3 else loss

    class Late(divergence.AsyncScalar):
        """An answer as a GPU gives it, two steps later."""

        def __init__(self, scalar):
            super().__init__(scalar)
            self.step = len(calls)

        def is_here(self):
            return len(calls) >= self.step + 2

    monkeypatch.setattr(CrossEntropy, "forward", forward)
    monkeypatch.setattr(divergence, "Answer", Late)
    monkeypatch.setattr(divergence.LossWatch, "hold", hold_here)
    result = run("train.py", *LONG, "output_dir=run")
    assert result.code == 1
    assert "the loss of step 3 is nan (images " in result.out
    assert len(calls) == 5
    content, two = (checkpoint.load_file(tmp_path / name) for name in ("run/diverged.pt", "two/checkpoints/last.ckpt"))
    assert content["step"] == 3
    for name, tensor in two["state_dict"].items():
        if "running_" not in name and "num_batches" not in name:
            assert torch.equal(content["state_dict"][name], tensor), name


@pytest.mark.parametrize("callbacks", ["default", "none"])
def test_no_checkpoint_is_written_before_the_answers_are_here(run, tmp_path, monkeypatch, callbacks):
    class Never(divergence.AsyncScalar):
        def is_here(self):
            return False

    monkeypatch.setattr(divergence, "Answer", Never)
    words = (*TINY, "trainer.max_steps=3", "trainer.val_every_n_steps=3", f"callbacks={callbacks}", "logger=none")
    result = run("train.py", *words, "optimizer.lr=1e30", "output_dir=run")
    assert result.code == 1
    assert "error: the loss of step 2 is" in result.out
    assert (tmp_path / "run/diverged.pt").is_file()
    assert not list((tmp_path / "run/checkpoints").glob("*.ckpt"))
