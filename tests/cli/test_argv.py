"""The words of a command line before anything is composed: flags, paths, and those of a resumed run."""

import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser

from segframe.cli import argv
from segframe.cli.resume_argv import given, resume_arguments
from segframe.config.overrides import quoted
from segframe.config.saved_run import check_same_parts
from segframe.errors import UserError


def test_flags_are_split_from_settings():
    flags, words = argv.split_flags(["model=unet", "--cfg", "job", "-m", "seed=1", "--config-dir=own", "--help"])
    assert flags == ["--cfg", "job", "-m", "--config-dir=own", "--help"]
    assert words == ["model=unet", "seed=1"]


def test_debug():
    words = ["train.py", "debug=true", "seed=1"]
    argv.take_debug(words)
    assert words == ["train.py", "seed=1"]
    with pytest.raises(UserError, match="debug=yes: it is true or false"):
        argv.take_debug(["debug=yes"])


def test_the_users_own_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words: list[str] = []
    assert argv.take_config_dir(words) is None
    (tmp_path / "configs").mkdir()
    assert argv.take_config_dir(words) == Path("configs")
    assert words == ["--config-dir=configs"]
    with pytest.raises(UserError, match="--config-dir=own: there is no such folder; give that of your own configs"):
        argv.take_config_dir(["--config-dir", "own", "model=unet"])
    (tmp_path / "own").mkdir()
    assert argv.take_config_dir(["--config-dir", "own"]) == argv.take_config_dir(["--config-dir=own"]) == Path("own")


def test_paths_are_quoted_for_hydra():
    words = ["output_dir=a run (2)", "data.root=photos", "resume=it's", "input='quoted already'", "optimizer.lr=[1, 2]"]
    expected = ["output_dir='a run (2)'", "data.root=photos", r"resume='it\'s'", *words[3:]]
    assert argv.quote_paths(words) == expected
    for path in ("jürgen/ü", "日本", "a#1", "~x", "a&b!", "a;b<c>", "a^b`c", "a b", "a=1,b", "plain/a-1.b", "a\\b"):
        assert OverridesParser.create().parse_override(f"a={quoted(path)}").value() == path
    assert argv.quote_paths(["output_dir=a b=1", "data.root=a=1,b"], sweeps=True) == [
        "output_dir='a b=1'",
        "data.root=a=1,b",
    ]
    assert argv.given_path("resume", ["resume=a", "resume=b"]) == Path("b")
    assert argv.given_path("resume", ["resume=null"]) is None
    with pytest.raises(UserError, match="output_dir=: the value is empty"):
        argv.check_values(["output_dir="])


def test_settings_that_the_command_line_repeats():
    words = ["++a.b={c: 1, d: {e: 2}}", "seed=1", "+x._target_=y", "cannot be read", "trust=[mine,my.part]"]
    assert given(words) == (["a.b.c", "a.b.d.e", "seed", "x._target_", "trust[0]", "trust[1]"], ["mine", "my.part"])


def test_a_resumed_run_is_composed_from_its_own_config(trained):
    words = resume_arguments(["resume=first", "trainer.max_steps=9", "--cfg", "job"])
    assert words[:2] == [f"--config-path={trained}", "--config-name=config.yaml"]
    assert words[2:6] == ["--cfg", "job", "resume=first", "trainer.max_steps=9"]
    assert "hydra.run.dir=first" in words


def test_settings_that_the_version_of_a_resumed_run_did_not_have(tmp_path):
    shutil.copytree(ROOT / "tests/fixtures/run_0.1", tmp_path / "old")
    words = ["seed=1", "trust=[mine]", "trainer.accumulated_mean=batches", "trainer.nowhere=1"]
    found = resume_arguments([f"resume={tmp_path / 'old'}", *words])
    assert found[3:7] == ["seed=1", "++trust=[mine]", "++trainer.accumulated_mean=batches", "trainer.nowhere=1"]


def test_resume_auto(trained):
    """Groups and removed parts are in the run's config by then; what was added is set there again."""
    words = ["resume=auto", "head=unet", "~callbacks.images", "+callbacks.mine._target_=a.B", "seed=1"]
    assert resume_arguments([*words, "output_dir=new"]) == [*words, "output_dir=new"]
    sweep = [*words, "output_dir=first", "-m"]
    assert resume_arguments(sweep) == sweep
    resumed = resume_arguments([*words, "output_dir=first"])
    assert resumed[2:5] == ["++callbacks.mine._target_=a.B", "seed=1", "resume=first"]


def test_the_parts_of_resume_auto_are_those_of_the_start(trained, run):
    command = ("resume=auto", "output_dir=first", "trainer.max_steps=6")
    for words, message in (
        (("model=fcn8s", "data=shapes"), "model=fcn8s: the run in first was started with model=null; choose another"),
        (("backbone=unet", "head=fcn8s"), "head=fcn8s: the run in first was started with head=unet; choose another"),
    ):
        assert f"{message} output_dir, or leave it as it was" in run("train.py", *command, *words).error
    for steps in (6, 7):  # a resumed run keeps the record
        words = ("backbone=unet", "head=unet", "callbacks=none", "logger=none", "data=shapes", "model=null")
        result = run("train.py", *command[:2], *words, f"trainer.max_steps={steps}")
        assert result.code == 0, result.out
    assert "head=fcn8s: the run in first was" in run("train.py", *command, "head=fcn8s").error
    (trained / "environment.json").write_text("{}")  # of an older version
    check_same_parts(trained, ["head=fcn8s"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=auto"], "resume=auto: it needs the folder"),
        (["resume=first", "-m"], "resume=first: a sweep cannot continue one run"),
        (["resume=nowhere"], "resume=nowhere: no run to continue"),
        (["resume=empty"], "resume=empty: no run to continue; it would hold config.yaml and checkpoints/last.ckpt"),
        (["resume=first/checkpoints/last.ckpt"], "give the run's folder, resume=.*/first$"),
        (["resume=first", "output_dir=second"], "output_dir=second: a run continues in its own folder"),
        (["resume=first", "backbone=resnet34"], "backbone=resnet34: resume continues a run with its own parts"),
    ],
)
def test_refused_words_of_a_resumed_run(trained, words, message):
    (trained.parent / "empty").mkdir()
    (trained.parent / "empty/config.yaml").touch()
    with pytest.raises(UserError, match=message):
        resume_arguments(words)


def test_foreign_code_in_a_resumed_run(trained, run):
    path = trained / "config.yaml"
    path.write_text(path.read_text().replace("callbacks:", "callbacks:\n  evil: {_target_: torch.hub.load}", 1))
    for word in ("callbacks=default", "+callbacks.evil.interval=step", "trainer.max_steps=9"):
        result = run("train.py", "resume=auto", "output_dir=first", word)
        assert result.error.startswith("error: resume=first: callbacks.evil._target_=torch.hub.load: ")
    added = "+callbacks.evil={_target_: mine.Part}"
    words = resume_arguments(["resume=auto", "output_dir=first", added, "trust=[torch.hub.load]"])
    assert "++callbacks.evil={_target_: mine.Part}" in words


@pytest.mark.parametrize("flags", [("--cfg", "job"), ("--help",)])
@pytest.mark.parametrize("resume", [("resume=first",), ("resume=auto", "output_dir=first")])
def test_a_run_is_shown_without_being_resumed(trained, run, flags, resume):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    result = run("train.py", *resume, *flags, "trainer.max_steps=9")
    assert result.code == 0, result.out
    assert ("max_steps: 9" in result.out) == ("--help" not in flags)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
