"""Resuming: what continues exactly, what follows the new settings, and what is refused without touching the run."""

import copy
import json

import pytest
import torch
from conftest import RUN, UNET, composed, rows
from omegaconf import OmegaConf
from torch import nn

from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.from_checkpoint import restore
from segframe.models.weights import checkpoint
from segframe.training import resume
from segframe.training.module import SegmentationModule
from segframe.training.schedulers import constant_lr


def last(folder):
    return checkpoint.load_file(folder / "checkpoints/last.ckpt")


def files(folder):
    """The contents of a run's files but for its log, which says what was tried."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.log"}


def test_a_resumed_run_ends_as_an_uninterrupted_one(run, tmp_path):
    common = (*UNET, *RUN[1:], "scheduler=constant")
    assert run("train.py", *common, "trainer.max_steps=4", "output_dir=whole").code == 0
    assert run("train.py", *common, "trainer.max_steps=2", "output_dir=parts").code == 0
    resumed = run("train.py", "resume=parts", "trainer.max_steps=4", "data.num_workers=1")
    assert resumed.code == 0, resumed.out
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert whole["global_step"] == parts["global_step"] == 4
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    whole_rows, part_rows = (rows(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    assert [row["step"] for row in part_rows] == ["2", "4"]
    assert [row["val/miou"] for row in whole_rows] == [row["val/miou"] for row in part_rows]
    best = json.loads((tmp_path / "parts/result.json").read_text())
    assert best == json.loads((tmp_path / "whole/result.json").read_text())
    assert run("scripts/evaluate.py", "checkpoint=parts", "output_dir=evaluated").code == 0
    assert json.loads((tmp_path / "evaluated/metrics.json").read_text())["val/miou"] == best["best"]
    assert not (tmp_path / "outputs").exists()


def test_another_accumulation_of_gradients(run, tmp_path, monkeypatch):
    """The images of a step stay; the run goes on with the next one."""
    seen: list[str] = []
    step = SegmentationModule.training_step
    monkeypatch.setattr(
        SegmentationModule, "training_step", lambda *args: (seen.extend(args[1]["name"]), step(*args))[1]
    )
    assert run("train.py", *UNET, *RUN[1:], "trainer.max_steps=8", "output_dir=whole").code == 0
    whole = seen.copy()
    seen.clear()
    words = (*UNET, *RUN[1:], "trainer.max_steps=3", "output_dir=parts")
    assert run("train.py", *words).code == 0
    for step_count, batch_size, accumulate in ((6, 2, 2), (8, 1, 4)):
        more = (f"data.batch_size={batch_size}", f"trainer.accumulate_grad_batches={accumulate}")
        resumed = run("train.py", "resume=parts", f"trainer.max_steps={step_count}", *more)
        assert resumed.code == 0, resumed.out
        assert last(tmp_path / "parts")["global_step"] == step_count
    assert seen == whole
    assert len(whole) == 32


def test_a_run_that_has_ended_keeps_its_config(trained, run):
    before = {name: (trained / name).read_text() for name in ("config.yaml", "environment.json")}
    result = run("train.py", "resume=first", "optimizer.lr=0.5")
    assert result.code == 0, result.out
    assert "the run had ended, trainer.max_steps=... makes it longer" in result.out
    assert {name: (trained / name).read_text() for name in before} == before
    assert run("train.py", "resume=first", "optimizer.lr=0.5", "trainer.max_steps=6").code == 0
    assert "lr: 0.5" in (trained / "config.yaml").read_text()


def test_a_moved_run_keeps_its_best(trained, run, tmp_path):
    best = json.loads((trained / "result.json").read_text())["best"]
    scores = [row["val/miou"] for row in rows(trained / "metrics.csv")]
    folder = trained.rename(tmp_path / "elsewhere (2)")
    words = ("trainer.max_steps=6", "optimizer.lr=0", "trainer.val_every_n_steps=1")
    result = run("train.py", "resume=elsewhere (2)", *words)
    assert result.code == 0, result.out
    assert [row["val/miou"] for row in rows(folder / "metrics.csv")][: len(scores)] == scores
    assert json.loads((folder / "result.json").read_text())["best"] >= best
    assert not trained.exists()


def test_new_settings_of_the_optimizer(trained, run):
    words = ("optimizer.lr=0.5", "optimizer.weight_decay=0.25", "head.lr_multiplier=4", "scheduler.min_factor=0.5")
    result = run("train.py", "resume=first", "trainer.max_steps=6", *words)
    assert result.code == 0, result.out
    groups = {group["name"]: group for group in last(trained)["optimizer_states"][0]["param_groups"]}
    assert groups["backbone/weight"]["lr"] == 0.25
    assert groups["head/weight"]["lr"] == 1.0
    assert {group["weight_decay"] for group in groups.values()} == {0.25, 0.0}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_optimizers_state_takes_the_memory_format_of_its_parameters(name):
    """Fused steps read parameter and state in one order, whatever their strides are."""
    torch.manual_seed(0)
    weight, gradients = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    settings = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}

    def steps(optimizer, parameter, numbers):
        for k in numbers:
            parameter.grad = torch.empty_like(parameter).copy_(gradients[k])
            optimizer.step()

    first = nn.Parameter(weight.clone())
    optimizer = getattr(torch.optim, name)([first], fused=False, **settings)
    steps(optimizer, first, (0, 1))
    second = nn.Parameter(first.detach().clone(memory_format=torch.channels_last))
    other = getattr(torch.optim, name)([second], fused=True, **settings)
    own_settings = resume.group_settings(other)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resume.apply_group_settings(other, constant_lr(other, 10, 0, 0.0), own_settings)
    assert other.param_groups[0]["fused"], "as its config has it, not as the other's had"
    steps(optimizer, first, (2,))
    steps(other, second, (2,))
    torch.testing.assert_close(second.detach(), first.detach())


def test_monitor_mode_of_another_metric(trained, run):
    assert OmegaConf.load(trained / "config.yaml").monitor_mode == "max"
    more = ("resume=first", "trainer.max_steps=6", "monitor=val/loss")
    assert "monitor_mode=max: val/loss is best where it is lowest" in run("train.py", *more).error
    result = run("train.py", *more, "monitor_mode=auto")
    assert result.code == 0, result.out
    assert OmegaConf.load(trained / "config.yaml").monitor_mode == "min"


ADAMW = ("optimizer._target_=torch.optim.AdamW", "~optimizer.momentum", "~optimizer.nesterov")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.val_split=nothing",), "no split 'nothing'"),
        (("batch_norm.frozen=all",), "the checkpoint's optimizer has "),
        (("backbone.channels=[4,4,4,4,8]",), "here; leave out backbone.channels[4]=8, or start another run"),
        (("data.batch_size=2",), "a step is of 2 images, and the run's of 4 (4 x 1)"),
        (("trainer.accumulate_grad_batches=2",), "trainer.accumulate_grad_batches=2: a step is of 8 images"),
        (("trainer.max_steps=4",), "trainer.max_steps=4: the run has reached step 5, and this ends it at 4; give more"),
        (("trainer.max_steps=null", "trainer.max_epochs=1"), "trainer.max_epochs=1: the run has reached step 5"),
        (("optimizer.lr=-1",), "optimizer.lr=-1: Invalid learning rate: -1"),
        (ADAMW, "the checkpoint's optimizer is torch.optim.SGD"),
    ],
)
def test_a_refused_run_is_left_as_it_was(trained, run, words, message):
    before = files(trained)
    assert message in run("train.py", "resume=first", "trainer.max_steps=9", *words).error
    assert files(trained) == before
    assert {path.name for path in trained.parent.iterdir()} == {"first"}


def test_damaged_checkpoints_leave_the_run_as_it_was(trained, run):
    for path in (trained / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    before = files(trained)
    assert "last.ckpt is damaged" in run("train.py", "resume=first", "trainer.max_steps=9").error
    assert files(trained) == before


def test_a_checkpoints_file_names_are_moved_into_the_runs_folder(trained, run):
    """They are deleted once there is a better one."""
    path = trained / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    state = next(state for name, state in content["callbacks"].items() if "val/miou" in name)
    worst = torch.tensor(-1.0)
    state |= {"best_k_models": {"/x/config.yaml": worst}, "kth_best_model_path": "/x/config.yaml", "kth_value": worst}
    state |= {"best_model_path": "/x/..", "best_model_score": worst, "last_model_path": "/x/thesis.odt"}
    torch.save(content, path)
    other = trained / "checkpoints/config.yaml"
    other.write_text("mine")
    result = run("train.py", "resume=first", "trainer.max_steps=6")
    assert result.code == 0, result.out
    assert other.read_text() == "mine"
    state = next(state for name, state in last(trained)["callbacks"].items() if "val/miou" in name)
    assert [name.rpartition("/")[2] for name in state["best_k_models"]] == ["best.ckpt"]


def test_lightnings_own_loggers_and_checkpoints(tmp_path, run):
    several = "+callbacks.all={_target_: pytorch_lightning.callbacks.ModelCheckpoint, monitor: '${monitor}', "
    several += "mode: '${monitor_mode}', dirpath: '${output_dir}/all', save_top_k: -1, filename: '{step}'}"
    logger = "+logger.more={_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${output_dir}/more'}"
    for steps in (2, 4):
        command = ("resume=auto", "output_dir=mine", several, logger, f"trainer.max_steps={steps}")
        result = run("train.py", *UNET, *command, "trainer.val_every_n_steps=2")
        assert result.code == 0, result.out
    assert sorted(path.name for path in (tmp_path / "mine/all").iterdir()) == ["step=2.ckpt", "step=4.ckpt"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["b", "a", "c"], "class 0 is a there, b in the data; leave them as they were"),
        (["a", "b", "d"], "class 2 is c there, d in the data"),
        (["a", "b", "c", "d"], "class 3 is missing there, d in the data"),
        (["a", "b"], "class 2 is c there, missing in the data"),
    ],
)
def test_other_classes(classes, message):
    resume.check_classes(["a", "b", "c"], ["a", "b", "c"])
    with pytest.raises(UserError, match=f"the checkpoint has other classes: {message}"):
        resume.check_classes(classes, ["a", "b", "c"])


def test_other_networks_and_groups():
    network = build_segmenter(composed(*UNET), 3)
    state = network.state_dict()
    resume.check_shapes(network, state)
    name = "head.classifier.bias"
    with pytest.raises(UserError, match=rf"another network: {name} is \(4,\) there, \(3,\) here; leave backbone"):
        resume.check_shapes(network, state | {name: torch.zeros(4)})
    with pytest.raises(UserError, match=rf"another network: {name} is missing there"):
        resume.check_shapes(network, {key: value for key, value in state.items() if key != name})
    groups = [{"name": "head/weight", "params": [0, 1]}, {"name": "head/bias", "params": [2]}]
    resume.check_groups(groups, groups[::-1])
    with pytest.raises(UserError, match="optimizer has 0 parameters in head/bias, by the config there are 1"):
        resume.check_groups(groups, groups[:1])


def test_a_frozen_backbone_stays_frozen(run, tmp_path):
    assert run("train.py", *UNET, *RUN[1:], "trainer.max_steps=2", "backbone.frozen=c3", "output_dir=frozen").code == 0
    first = last(tmp_path / "frozen")["state_dict"]
    assert "leave param_groups, backbone.frozen" in run("train.py", "resume=frozen", "backbone.frozen=c2").error
    assert run("train.py", "resume=frozen", "trainer.max_steps=4").code == 0
    fixed = {name for name, tensor in last(tmp_path / "frozen")["state_dict"].items() if tensor.equal(first[name])}
    stages = {name.split(".")[3] for name in fixed if name.startswith("segmenter.backbone.")}
    assert len(stages) == 3
    restored = restore(tmp_path / "frozen").segmenter.train()
    assert [stage.training for stage in restored.backbone.stages] == [False] * 3 + [True] * 2
    assert not any(name.startswith("segmenter.head.") for name in fixed)
