"""Messages for command lines and YAML files that cannot be composed: one line, with the closest match."""

import sys
from pathlib import Path

import pytest
import yaml
from conftest import composed
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from segframe.cli.main import PROGRAMS, error_message, main
from segframe.config import schema
from segframe.data.inspection.finding import Finding
from segframe.errors import UserError


def message(*words):
    """The error message of a training whose config cannot be composed."""
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)) as error:
        composed(*words)
    return error_message(error.value, list(words), PROGRAMS["train"])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.lrr=3", "optimizer.lrr is not a setting; did you mean optimizer.lr?"),
        ("lr=0.1", "lr is not a setting; did you mean optimizer.lr?"),
        ("bakbone=resnet18", "bakbone is not a setting; did you mean backbone?"),
        ("transforms.crop=3", "transforms.crop is not a setting; did you mean transforms.crop_size?"),
        ("nothing.like_it=3", "nothing.like_it is not a setting; `--cfg job` shows all of them"),
        ("data.zzz=3", "data.zzz is not a setting; there is dataset, "),
        ("epochs=9", "epochs is not a setting; did you mean trainer.max_epochs?"),
        ("optimizer.batch_size=9", "optimizer.batch_size is not a setting; did you mean data.batch_size?"),
        ("trainer.strategy=ddp", "trainer.strategy is not a setting; trainer.devices=... trains by Distributed"),
        ("trainer.gpus=2", "trainer.gpus is not a setting; an argument of Lightning's Trainer is set with +trainer."),
        ("callbacks.early_stopping.patience=3", "callbacks.early_stopping.patience is a setting of callbacks=early_st"),
        ("+optimizer.lr=1", "+optimizer.lr: there is such a setting already; change it without the +"),
        ("model=FCN8s", "model=FCN8s: there is no such option; did you mean fcn8s?"),
        ("trainer.lightning.foo=1", "trainer.lightning.foo is not a setting yet; add it with +trainer.lightning.foo="),
        ("trainer.lightning={foo: 1}", "trainer.lightning.foo is not a setting yet; add it with +trainer.lightning."),
        ("aux_head=null", "aux_head=null: there is no such option; there is fcn, none"),
        ("~loss=5", "loss=5: there is no such option"),
        ("model=fcn8s,fcn9s", "model=fcn9s: there is no such option; did you mean fcn8s?"),
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: it must be a whole number"),
        ("trainer.max_steps=None", "trainer.max_steps=None: it must be a whole number; nothing is null"),
        ("trainer.max_epochs=null", "trainer.max_epochs=null: it must have a value"),
        ("data.download=maybe", "data.download=maybe: it must be true or false"),
        ("needs=head", "needs: it must be a list, needs=[...]"),
        ("optimizer.lr=[1,", "optimizer.lr=[1,: a bracket is not closed; quote what has spaces, 'optimizer.lr=[a, b]'"),
        ("data.crop_size=(1,2)", "data.crop_size=(1,2): it cannot be read; a list is [1,2], a text with other signs "),
        ("optimizer.lr = 0.1", "optimizer.lr = 0.1: there is a space beside =; type optimizer.lr=0.1"),
        ("model", "cannot read 'model' on the command line: a setting is name=value, without spaces"),
        ("transforms.scale.x=1", "transforms.scale.x is not a setting; there is 0, 1"),
        ("postprocess=dense_crf", "postprocess=dense_crf: train has no such part; leave it out"),
        ("checkpoint=runs/a", "checkpoint is not a setting; model=, backbone= and head= choose a network; resume="),
    ],
)
def test_words(word, expected):
    assert message(word).startswith(expected)


def test_a_right_word_is_not_blamed_for_a_wrong_one():
    assert message("transforms.train.1.p=0.3", "trainer.max_epochs=abc").startswith("trainer.max_epochs=abc: ")
    mappings = (
        "data.dataset.label_map={0: 0, 255: ignore}",
        "data.dataset={splits: {train: a.txt}}",
        "+callbacks.x={_target_: a.B}",
    )
    for word in mappings:
        assert message("data=folder", word, "optimizer.lrr=1").startswith(
            "optimizer.lrr is not a setting; did you mean"
        )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"# @package _global_\ntrainer: {max_step: 3}\n", "trainer.max_step is not a setting; did you mean max_steps"),
        (b"# @package _global_\ntrainer: [1]\n", "a mapping is expected; write its settings as name: value"),
        (b"palette: [{road: #804080}]\n", "mine.yaml, line 2: "),
        (b"palette: [{road: #804080}]\n", "; a # begins a comment"),
        (b"a: \xff\n", "mine.yaml is not UTF-8 text"),
    ],
)
def test_files(run, tmp_path, content, expected):
    (tmp_path / "configs/experiment").mkdir(parents=True)
    (tmp_path / "configs/experiment/mine.yaml").write_bytes(content)
    try:
        result = run("train.py", "experiment=mine", "--cfg", "job")
    finally:
        schema.register()
    assert expected in result.error


def test_an_argument_that_a_preset_sets_for_another_part(run):
    result = run("train.py", "experiment=fcn8s_voc", "data=shapes", "needs=[]", "optimizer=adam")
    assert result.error == (
        "error: optimizer.momentum: torch.optim.Adam has no such argument; experiment=fcn8s_voc sets it, and "
        "~optimizer.momentum removes it"
    )


def test_a_callback_of_which_a_preset_sets_settings_alone(run):
    words = ("train.py", "experiment=camvid_heads", "data=shapes", "backbone.weights=null", "callbacks=none")
    result = run(*words)
    assert result.error == (
        "error: callbacks.average: it has no _target_ with this option of callbacks; experiment=camvid_heads sets it, "
        "and ~callbacks.average removes it"
    )
    assert run(*words, "~callbacks.average", "data.dataset.what=x").error.startswith("error: data.dataset.what is not")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("optimizer.lr=0,01", "optimizer.lr=0,01: a list is [a,b], a decimal has a point, and several values are a s"),
        ("--data=voc", "--data=voc: a setting has no dashes; type data=voc"),
        ("--max_steps 5", "--max_steps: a setting has no dashes; type trainer.max_steps=5"),
        ("--lr --batch-size=4", "--lr: a setting has no dashes; type optimizer.lr=..."),
        ("--batch-size=4", "--batch-size=4: a setting has no dashes; type data.batch_size=4"),
        ("head.output_stride=7 model=deeplabv3", "head.output_stride=7: backbone.output_stride must be 4, 8, 16 or 32"),
        ("data.dataset.num_images=10", "data.dataset.num_images=10: segframe.data.Shapes expects a mapping such as {"),
        ("experiment=fcn16s_voc data.root=.", "init_from must be given: experiment=fcn16s_voc is FCN-16s (Shelhamer"),
        ("data=folder data.dataset.classes=[a,b] data.root=~/nowhere", f"{Path.home()}/nowhere does not exist"),
        ("output_dir=/proc/x", "/proc/x: No such file or directory; choose a path that exists and may be used"),
        ("~callbacks.imges", "callbacks.imges is not a setting; did you mean callbacks.images?"),
        ("~loss.class_weights", "~loss.class_weights: it is null already; leave ~loss.class_weights out"),
        ("experiment=camvid_scratch data.root=. trainer.max_epochs=2", "trainer.max_epochs=2: trainer.max_steps=2200"),
        ("trainer.accelerator=gpu0", "trainer.accelerator=gpu0: unknown; choose auto, cpu or gpu"),
    ],
)
def test_command_lines(run, words, expected):
    assert run("train.py", *words.split()).error.startswith(f"error: {expected}")


def test_misspelt_settings_beside_parts_of_ones_own(run, tmp_path):
    (tmp_path / "own/head").mkdir(parents=True)
    (tmp_path / "own/head/mine.yaml").write_text("defaults: [fcn, _self_]\n")
    words = (f"--config-dir={tmp_path / 'own'}", "head=mine")
    for word, meant in (("optimizer.lrr=1", "optimizer.lr"), ("head.dropou=0", "head.dropout")):
        error = f"error: {word.partition('=')[0]} is not a setting; did you mean {meant}?"
        assert run("train.py", *words, word).error == error


def test_a_missing_checkpoint(run):
    for script, more in (("scripts/evaluate.py", ()), ("scripts/predict.py", ("input=.", "output=out"))):
        assert "there is no checkpoint absent.ckpt" in run(script, "checkpoint=absent.ckpt", *more).error
    run_folder = "<a run's folder (its best checkpoint), a checkpoint file, or an exported model.onnx>"
    expected = f"checkpoint must be given: checkpoint={run_folder}"
    assert run("scripts/evaluate.py").error == f"error: {expected}"
    error = run("scripts/predict.py").error
    assert error.startswith(f"error: checkpoint and input and output must {expected[16:]} input=<an image")


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("evaluate", "checkpoint=first trainer.precision=32-true", "trainer.precision is not a setting; did you mean"),
        ("evaluate", "checkpoint=first loss=dice", "loss=dice: evaluate has no such part; leave it out"),
        ("summary", "checkpoint=first", "checkpoint is not a setting; model=, backbone= and head= choose a network; w"),
    ],
)
def test_settings_and_parts_of_other_programs(run, trained, script, words, expected):
    assert run(f"scripts/{script}.py", *words.split()).error.startswith(f"error: {expected}")


@pytest.mark.parametrize("name", ["evaluate", "train"])
def test_a_folder_without_the_setting_that_it_is_for(tmp_path, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["segframe", name, str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    expected = f"error: cannot read {str(tmp_path)!r} on the command line: a setting is name=value, without spaces"
    assert end.value.code == expected + f"; type checkpoint={tmp_path}" * (name != "train")


def test_an_error_passed_on_by_a_worker_is_its_last_line():
    assert str(UserError("a backbone a.UserError: b")) == "a backbone a.UserError: b"
    text = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\nsegframe.errors.UserError: bad\n"
    assert str(UserError(text)) == "bad"


def test_long_values_are_cut_in_the_middle():
    message = str(UserError(f"data.root={'x' * 5000}: no such folder; give another"))
    assert len(message) == 600
    assert message.startswith("data.root=xxx")
    assert message.endswith("xxx: no such folder; give another")
    finding = Finding("error", "train", "what", ["x" * 5000], "advice")
    assert len(finding.files[0]) == 600
