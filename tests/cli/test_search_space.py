"""The space of a search: ranges in Hydra's grammar, which are checked before the first trial."""

import pytest
from conftest import composed, options
from omegaconf import OmegaConf

from segframe.cli.search_space import check_space, grid_values, read_space
from segframe.errors import UserError

LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"


@pytest.mark.parametrize(
    ("word", "ends"),
    [
        ("a=x,y", ["x", "y"]),
        ("a=choice(1,[2,3],'b c')", ["1", "[2,3]", "b\\ c"]),
        ("a=range(1,8,3)", [1, 4, 7]),
        ("a=range(0.1,0.4,0.1)", [0.1, 0.2, 0.3]),
        ("a=range(5,0,-2)", [1, 3, 5]),
        ("a=int(interval(2,5))", [2, 3, 4, 5]),
        ("model=glob(fcn8s*)", ["fcn8s", "fcn8s-atonce", "fcn8s-atonce_original", "fcn8s_original"]),
    ],
)
def test_ranges_in_the_grammar_of_hydra(word, ends):
    ranges = read_space(None, [word]).ranges
    assert grid_values(ranges) == {word.partition("=")[0]: ends}


def test_the_words_of_a_file_and_of_the_command_line():
    file = {"backbone": ["resnet18", "resnet50"], "optimizer": {"lr": "interval(0.1, 0.2)"}, "head": "fcn"}
    file["trainer"] = {"gradient_clip_val": [None, 1.0]}
    space = read_space(file, ["head=unet", "optimizer.lr=0.1"])
    assert sorted(space.fixed) == ["head=unet", "optimizer.lr=0.1"]
    assert list(space.ranges) == ["backbone", "trainer.gradient_clip_val"]
    assert space.ranges["trainer.gradient_clip_val"].choices == ("null", "1.0")


def test_metric_and_mode_come_from_the_trials_config():
    assert check_space(read_space(None, [LR, "monitor=val/loss"])) == ("val/loss", "min", 1)


@pytest.mark.parametrize("option", options("search"))
def test_the_files_of_ranges(option):
    file = OmegaConf.to_container(composed(f"search={option}", "study=s", name="search"))["search"]
    space = read_space(file, [])
    assert check_space(space) == ("val/miou", "max", 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["head=fcn"], "nothing to search: give a setting several values"),
        (["optimizer.lr=interval(0.1,0.01)"], "optimizer.lr=interval(0.1,0.01): "),
        (["optimizer.lr=range(1,1)"], "optimizer.lr=range(1,1): the range is empty"),
        (["optimizer.lr=interval(0.1"], "optimizer.lr=interval(0.1: it cannot be read; several values are"),
        (["monitor=val/miou,val/loss"], "monitor: all trials are compared by it"),
    ],
)
def test_refused_spaces(words, expected):
    with pytest.raises(UserError) as error:
        read_space(None, words)
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["backbone=resnet18,resnet999"], "backbone=resnet999: there is no such option"),
        (["optimizer.lrr=0.1,0.2"], "optimizer.lrr is not a setting; did you mean optimizer.lr?"),
        (["trails=3", "optimizer.lr=0.1,0.2"], "trails is not a setting; did you mean trials?"),
        (["optimizer.lr=0.1,x"], "optimizer.lr=x: "),
        (
            ["optimizer.lr=0.1,0.2", "experiment=camvid", "inference=whole"],
            "inference.scales: segframe.inference.WholeImage has no such argument; experiment=camvid sets it, and "
            "~inference.scales removes it",
        ),
    ],
)
def test_every_choice_is_checked_before_the_first_trial(run, tmp_path, words, expected):
    result = run("scripts/search.py", "study=s", *words)
    assert result.error.startswith(f"error: {expected}")
    assert not (tmp_path / "s").exists()
