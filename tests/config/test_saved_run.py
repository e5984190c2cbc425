"""Resuming a run's folder that may be somebody else's: it runs no foreign code and writes nowhere else."""

import shutil
import sys

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from segframe.config.saved_run import check_saved_run, computes, resolve_references
from segframe.errors import UserError


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder of a run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tests/fixtures/run_0.1", tmp_path / "old")
    return tmp_path / "old"


def edit(folder, old, new):
    path = folder / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change(folder, **settings):
    config = OmegaConf.load(folder / "config.yaml")
    for key, value in settings.items():
        OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, folder / "config.yaml")


def test_runs_of_older_and_todays_versions_are_accepted(old, trained):
    check_saved_run(old)
    check_saved_run(trained)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("hydra:\n  callbacks:\n    x: {_target_: os.mkdir, path: ran}\n", "hydra is no setting of a run"),
        ("init_from: '${oc.create:{_target_:os.mkdir,path:ran}}'\n", "computes values"),
        ("init_from: '${oc.${seed}}'\n", "computes values"),
        ("# @package hydra\n", "computes values"),
        # As YAML decodes them, and as two of them would become one.
        ('init_from: "\\x24{oc.create:{_target_:os.mkdir,path:ran}}"\n', "computes values"),
        ('init_from: {"\\x24{oc.env:HOME}": 1}\n', "computes values"),
        ('init_from: "\\x40package hydra"\n', "computes values"),
        ("init_from: '${needs}{oc.create:{_target_:os.mkdir,path:ran}}'\n", "computes values"),
        ('init_from: {"\\x5ftarget_": os.mkdir, path: ran}\n', "init_from._target_=os.mkdir: "),
        ("init_from: {_target_: '${monitor}', path: ran}\n", "init_from._target_=${monitor}: "),
        ("init_from: {_target_: 5}\n", "init_from._target_=5: "),
        ("init_from: {_target_: torch.optim.SGD, _args_: [1]}\n", "init_from._args_: "),
        ("seed: [\n", "cannot be read"),
        ("seed: " + "[" * 3000 + "\n", "cannot be read"),
    ],
)
def test_no_code_and_no_computed_values(old, lines, message):
    path = old / "config.yaml"
    path.write_text(lines + path.read_text().replace("init_from: null\n", ""))
    with pytest.raises(UserError) as error:
        check_saved_run(old)
    assert message in str(error.value)


def test_groups_that_are_no_mapping(old):
    config = OmegaConf.load(old / "config.yaml")
    config.trainer = [1]
    OmegaConf.save(config, old / "config.yaml")
    with pytest.raises(UserError, match=r"trainer=\[1\] is no mapping of settings"):
        check_saved_run(old)


@pytest.mark.parametrize("text", ["[1, 2]\n", "seed: 0\n", "\xff"])
def test_files_that_are_no_config(old, text):
    (old / "config.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.yaml (is not the config of a run|has no|cannot be read)"):
        check_saved_run(old)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("dirpath: ${output_dir}/checkpoints", "dirpath: /tmp/victim"),
        ("dirpath: ${output_dir}/checkpoints", "dirpath: ${output_dir}/../victim"),
        ("dirpath: ${output_dir}/checkpoints", "dirpath: ${data.root}"),
        ("filename: best", "filename: ../../victim/best"),
        ("save_dir: ${output_dir}", "save_dir: /tmp/victim"),
    ],
)
def test_nothing_is_written_outside_of_the_folder(old, before, after):
    edit(old, before, after)
    with pytest.raises(UserError, match="is not below the run's folder"):
        check_saved_run(old)


def test_paths_below_the_folder_and_data_anywhere(old):
    edit(old, "${output_dir}/checkpoints", str(old / "checkpoints"))
    change(old, **{"data.root": "/data", "data.cache_dir": "/scratch"})
    change(old, **{"callbacks.best_checkpoint.filename": "{epoch}-{val/miou:.2f}"})
    check_saved_run(old)


def test_what_the_command_line_repeats_is_allowed(old, monkeypatch):
    monkeypatch.syspath_prepend(old.parent)
    (old.parent / "own_part.py").write_text("from os import system\nclass Callback: ...\n")
    change(old, **{"callbacks.mine._target_": "own_part.Callback", "logger.csv.save_dir": "/elsewhere"})
    with pytest.raises(
        UserError, match=r"callbacks\.mine\._target_=own_part\.Callback: .*trust=\[own_part\.Callback\]"
    ):
        check_saved_run(old, ["callbacks.mine._target_", "logger.csv.save_dir"], ["own", "own_part.Call"])
    assert "own_part" not in sys.modules
    for trusted in ("own_part", "own_part.Callback"):
        with pytest.raises(UserError, match=r"logger\.csv\.save_dir=/elsewhere"):
            check_saved_run(old, [], [trusted])
        check_saved_run(old, ["logger.csv.save_dir"], [trusted])
    change(old, **{"callbacks.mine._target_": "own_part.system"})
    with pytest.raises(UserError, match=r"it is posix\.system, which is not below trust=\[own_part\]"):
        check_saved_run(old, ["logger.csv.save_dir"], ["own_part"])
    change(old, **{"callbacks.mine._target_": "own_part.nowhere"})
    with pytest.raises(UserError, match="own_part has no nowhere"):
        check_saved_run(old, ["logger.csv.save_dir"], ["own_part"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${data.root}/x", False),
        ("${transforms.train[0]}", False),
        ({"a": [1, None, True, 1.5, "text"]}, False),
        ("$HOME", False),
        ("${oc.env:HOME}", True),
        ("${a}${b}", True),
        ([{"${a}": 1}], True),
    ],
)
def test_computed_values(value, expected):
    assert computes(value) == expected


def test_references_are_resolved():
    config = {"a": {"b": "${c}"}, "c": [1, "${d}"], "d": 2}
    assert resolve_references(config) == {"a": {"b": [1, 2]}, "c": [1, 2], "d": 2}
    with pytest.raises(UserError, match="computes values"):
        resolve_references({"a": "${oc.env:HOME}"})
    with pytest.raises(UserError, match="cannot be resolved"):
        resolve_references({"a": "${b}"})
