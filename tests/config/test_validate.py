"""Validation of composed configs: every mistake is found before anything is built, and named with the closest match."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from conftest import UNET, composed
from omegaconf import OmegaConf

from segframe.config import validate
from segframe.config.argument_types import accepts, annotation, describe_type
from segframe.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lrr", 3, "optimizer.lrr: torch.optim.SGD has no such argument; did you mean lr?"),
        ("optimizer.lr", "fast", "optimizer.lr=fast: torch.optim.SGD expects float"),
        ("optimizer.lr", float("nan"), "optimizer.lr=nan: it must be a finite number"),
        ("transforms.scale", [1.0, float("inf")], "transforms.scale[1]=inf: it must be a finite number"),
        ("optimizer.lr", 10**30, f"optimizer.lr={10**30}: it must be a finite number"),
        ("optimizer.nesterov", 2, "optimizer.nesterov=2: torch.optim.SGD expects bool"),
        ("optimizer._target_", "torch.optim.SDG", "SDG: torch.optim has no SDG; did you mean SGD?"),
        ("data.crop_size", [144, "x"], "data.crop_size=[144, 'x']: segframe.data.RandomScaleCrop expects int | list["),
        ("transforms.train[0].sice", 3, "transforms.train[0].sice: segframe.data.RandomScaleCrop has no such argument"),
        ("transforms.train", None, "transforms.train=null: "),
        ("data.dataset", None, "data.dataset=null: a run needs it"),
        ("data.dataset.num_images", {"train": "x"}, "data.dataset.num_images={'train': 'x', 'val': 3, 'test': 2}: "),
        ("trainer.lightning", [1], "trainer.lightning=[1]: "),
        ("loss", [1], "loss=[1]: a mapping of settings is expected"),
        ("optimzer.lr", 3, "optimzer is not a setting; did you mean optimizer?"),
        ("trainer.max_step", 3, "trainer.max_step is not a setting; did you mean max_steps?"),
        ("param_groups.x", 1, "param_groups.x is not a setting; there is bias_lr_multiplier, "),
        ("seed", -1, "seed=-1: it must be between 0 and 4294967295"),
        ("data.cache", "tape", "data.cache=tape: it must be ram, disk or null"),
        ("data.cache_limit", 0, "data.cache_limit=0.0: it must be above 0"),
        ("trainer.gradient_clip_val", -1, "trainer.gradient_clip_val=-1.0: it must be 0 or more"),
        ("trainer.compile", None, "trainer.compile=null: it must be auto, true or false"),
        ("needs", ["init_from"], "init_from must be given: "),
    ],
)
def test_mistakes(key, value, message):
    config = composed(*UNET)
    if key in ("loss", "trainer.lightning"):  # which the command line cannot replace, but a resumed run's file can
        config = OmegaConf.create(OmegaConf.to_container(config))
    OmegaConf.update(config, key, value, force_add=True, merge=not isinstance(value, list))
    with pytest.raises(UserError) as error:
        validate.validate_config(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("terms.cross_entrropy", 1, "loss.terms.cross_entrropy=1: segframe.models.losses.WeightedSum expects Loss"),
        ("weights.dice", "much", "loss.weights.dice=much: segframe.models.losses.WeightedSum expects float"),
    ],
)
def test_entries_of_mappings(key, value, message):
    config = composed(*UNET, "loss=cross_entropy_dice")
    OmegaConf.update(config, f"loss.{key}", value, force_add=True, merge=False)
    with pytest.raises(UserError) as error:
        validate.validate_config(config)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("class Head:\n  def f(:", "own_head.Head", r": importing its module failed: SyntaxError: .*own_head\.py, "),
        ("{}['x']\n", "own_head.Head", r": importing its module failed: KeyError: 'x' \(.*own_head\.py, line 1\)"),
        ("\nimport no_such", "own_head.Head", r"ModuleNotFoundError: No module named 'no_such' .*own_head\.py, line 2"),
        ("class Head: ...", "own_head.Heads", r": own_head has no Heads; did you mean Head\?"),
        ("class Head: ...", "own_head.Head.x", r": type object 'Head' has no attribute 'x'; choose a class"),
        ("", "own_heads.Head", ": there is no module own_heads; install its package, or add the folder that"),
        ("", "own_head..Head", "invalid dotstring"),
    ],
)
def test_targets_that_cannot_be_imported(tmp_path, monkeypatch, content, name, message):
    """A part that is missing is told from one whose own code fails."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_head.py").write_text(content)
    config = composed(*UNET, f"head._target_={name}")
    with pytest.raises(UserError, match=message) as error:
        validate.validate_config(config)
    monkeypatch.delitem(sys.modules, "own_head", raising=False)
    assert str(error.value).startswith(f"head._target_={name}: ")


@pytest.mark.parametrize("word", ["~optimizer", "~data.batch_size", "data=folder"])
def test_missing_settings(word):
    with pytest.raises(Exception, match=r"batch_size|optimizer|classes|root"):
        validate.validate_config(composed(*UNET[:4], word))


def test_a_config_of_an_older_run_is_upgraded():
    config = OmegaConf.create(OmegaConf.to_container(composed(*UNET)))
    del config["batch_norm"], config["input_scales"], config["normalize"]["bgr"]
    config.loss._target_ = "segframe.losses.cross_entropy.CrossEntropy"
    config.transforms.train[0]._target_ = "segframe.data.transforms.RandomScaleCrop"
    validate.validate_config(config, resumes=True)
    assert config.batch_norm == {"frozen": None, "backbone_momentum": 0.1, "head_momentum": 0.1}
    assert config.normalize.bgr is False
    assert config.loss._target_ == "segframe.models.losses.CrossEntropy"
    assert config.transforms.train[0]._target_ == "segframe.data.RandomScaleCrop"


def test_a_value_is_blamed_on_the_setting_that_it_refers_to():
    config = OmegaConf.create({"a": {"b": "${c.d}"}, "c": {"d": "${e}"}, "e": 1, "f": ["${e}"]})
    assert validate.find_source(config, "a.b") == "e"
    assert validate.find_source(config, "e") == "e"


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [1], [1.5, "1", True, None, [1]]),
        (float, [1, 1.5], ["1", True, None]),
        (bool, [True], [1, "true"]),
        (str, ["a"], [1, ["a"]]),
        (int | None, [1, None], ["a"]),
        (list[int], [[1], []], [[1.5], "1", {"a": 1}]),
        (list[OmegaConf], [[{"_target_": "x"}] * 2], [[1], [1, {"_target_": "x"}], [{"_target_": "x"}, {"a": 1}]]),
        (Sequence[str], [["a"]], ["a", [1]]),
        (tuple[float, float], [[1, 2.0]], [[1], [1, 2, 3]]),
        (tuple[int, ...], [[], [1, 2, 3]], [["a"]]),
        (dict[str, int], [{"a": 1}], [{"a": "b"}, [1]]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Any, [1, None, "a"], []),
    ],
)
def test_annotations(hint, right, wrong):
    for value in right:
        assert accepts(hint, value), value
    for value in wrong:
        assert not accepts(hint, value), value
    assert accepts(hint, {"_target_": "x"}), "an object's type is not known yet"


def test_types_in_messages():
    def function(a: int, b: list[int] | None, c, d: "Unknown"): ...  # noqa: F821

    assert describe_type(int) == "int"
    assert describe_type(list[int] | None) == "list[int] | null"
    assert annotation(function, "c") is annotation(function, "d") is Any
