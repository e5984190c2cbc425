"""Hyperparameter search: tables, failures, draws, pruning; bad trials end early."""

import json
import shlex
import shutil
import signal
import sys
from types import SimpleNamespace

import optuna
import pytest
from conftest import RUN, UNET, rows
from studies import LR, TRIAL, numbers, states

from segframe import preemption
from segframe.cli import search as driver
from segframe.cli import study_setup, trial_process
from segframe.cli.search_space import TrialFacts, read_space
from segframe.training.run_dir import write_result
from segframe.training.study import TrialAddress, open_journal, read_result


@pytest.fixture
def stub(run, tmp_path, monkeypatch):
    """Runs a search in this process whose trials are TRIAL."""
    (tmp_path / "trial.py").write_text(TRIAL)
    monkeypatch.setattr(driver, "COMMAND", [sys.executable, "trial.py"])
    monkeypatch.setattr(study_setup, "check_space", lambda *_: TrialFacts("val/miou", "max", 1))
    handlers = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    yield lambda *words: run("scripts/search.py", "study=s", *words)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_study_ends_with_table_and_command(stub, tmp_path):
    result = stub("trials=5", LR, "backbone=resnet18,resnet34", "head=fcn")
    assert result.code == 0, result.out
    table = rows(tmp_path / "s/trials.csv")
    assert list(table[0])[:4] == ["trial", "optimizer.lr", "backbone", "val/miou"]
    assert sorted(int(row["trial"]) for row in table) == list(range(5))
    assert {row["state"] for row in table} == {"complete"}
    values = [float(row["val/miou"]) for row in table]
    assert values == sorted(values, reverse=True)
    best = table[0]
    command = next(line for line in result.out.splitlines() if line.startswith("python train.py"))
    drawn = [f"{key}={best[key]}" for key in ("optimizer.lr", "backbone")]
    assert shlex.split(command)[2:] == ["head=fcn", *drawn]
    assert (tmp_path / "s/history.png").is_file()
    assert (tmp_path / "s/importances.png").is_file()
    again = stub("trials=4", LR, "backbone=resnet18,resnet34", "head=fcn")
    assert (again.code, rows(tmp_path / "s/trials.csv")) == (0, table)
    assert stub("trials=6", LR, "backbone=resnet18,resnet34", "head=fcn").code == 0
    assert len(rows(tmp_path / "s/trials.csv")) == 6
    other = stub("trials=6", LR, "backbone=resnet18,resnet34", "head=unet")
    assert "study=s: it was begun with other settings (head=fcn, head=unet)" in other.error


def test_a_failed_trial_has_a_reason_and_the_study_goes_on(stub, tmp_path):
    result = stub("trials=3", "sampler=grid", "optimizer.lr=0.1,0.3,0.4", "+limit=0.35")
    assert result.code == 1
    table = {row["optimizer.lr"]: row for row in rows(tmp_path / "s/trials.csv")}
    assert {key: row["state"] for key, row in table.items()} == {"0.1": "complete", "0.3": "complete", "0.4": "fail"}
    assert table["0.4"]["error"] == "optimizer.lr: too large"
    assert "failed: optimizer.lr: too large" in result.out


def test_a_trial_that_always_dies_fails(stub, tmp_path):
    (tmp_path / "trial.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    result = stub("trials=1", LR)
    assert result.code == 1
    (row,) = rows(tmp_path / "s/trials.csv")
    assert row["error"].startswith("killed by SIGKILL 5 times without a new checkpoint; did memory run out? see s/0/")


def test_what_a_driver_left_when_it_was_killed_while_drawing(stub, tmp_path):
    """A trial without settings, one that has ended unnoticed, and half a line of the journal."""
    assert stub("trials=1", LR).code == 0
    storage = open_journal(tmp_path / "s")
    study_id = storage.get_study_id_from_name("study")
    for _ in range(2):
        storage.create_new_trial(study_id)
    distribution = read_space(None, [LR]).ranges["optimizer.lr"]
    storage.set_trial_param(2, "optimizer.lr", 0.25, distribution)
    (tmp_path / "s/2").mkdir()
    (tmp_path / "s/2/result.json").write_text('{"monitor": "val/miou", "best": 0.75}')
    with (tmp_path / "s/journal.log").open("a") as file:
        file.write('{"op_code":')
    result = stub("trials=3", LR)
    assert result.code == 0, result.out
    assert states(tmp_path / "s") == ["COMPLETE"] * 3
    assert numbers(tmp_path) == [0, 1]


@pytest.mark.parametrize(
    ("workers", "gpus", "shares"),
    [
        (None, ["0", "1", "2"], ["0", "1", "2"]),
        (2, ["0", "1", "4", "5"], ["0,1", "4,5"]),
        (3, ["0", "1"], ["0", "1", "0"]),
        (1, ["0", "1"], [None]),
        ((None, 2), ["0", "1", "2", "3"], ["0,1", "2,3"]),
        ((None, "auto"), ["0", "1", "2", "3"], [None]),
        ((None, 2), ["0"], [None]),
        (None, [], [None]),
        (2, [], [None, None]),
    ],
)
def test_gpus_are_divided_among_the_workers(monkeypatch, workers, gpus, shares):
    monkeypatch.setattr(trial_process, "visible_gpus", lambda: gpus)
    found = trial_process.environments(*(workers if isinstance(workers, tuple) else (workers,)))
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in found] == shares
    assert ("OMP_NUM_THREADS" in found[0]) == (workers == 2 and not gpus)


def test_draws_depend_on_seed_and_number(stub, tmp_path):
    draws = []
    for seed in (0, 0, 1):
        assert stub("trials=2", LR, "sampler=tpe", f"sampler.seed={seed}").code == 0
        draws.append([row["optimizer.lr"] for row in rows(tmp_path / "s/trials.csv")])
        shutil.rmtree(tmp_path / "s")
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 2


def test_after_the_timeout_no_trial_is_started(stub, tmp_path):
    result = stub("trials=3", LR, "timeout=0")
    assert (result.code, states(tmp_path / "s")) == (1, [])


@pytest.mark.parametrize(
    ("pruner", "code", "reported"),
    [
        ({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}, 76, 1),
        ({"_target_": "optuna.pruners.NopPruner"}, 0, 3),
    ],
)
def test_a_bad_trial_ends_early_and_leaves_its_result(run, tmp_path, monkeypatch, pruner, code, reported):
    (tmp_path / "s").mkdir()
    storage = open_journal(tmp_path / "s")
    study = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    good = study.ask()
    for validation in (1, 2, 3):
        good.report(0.99, validation)
    study.tell(good, 0.99)
    number = study.ask().number
    for key, value in TrialAddress(str(tmp_path / "s"), number, pruner).to_environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SEGFRAME_PARENT")
    result = run("train.py", *UNET, *RUN, f"output_dir=s/{number}", "resume=auto")
    assert result.code == code, result.out
    found = read_result(tmp_path / f"s/{number}")
    assert (found.best is not None, found.pruned) == (True, 1 if code else None)
    assert list(storage.get_trial(number).intermediate_values) == list(range(1, reported + 1))
    assert (tmp_path / f"s/{number}/checkpoints/best.ckpt").is_file()


def test_a_pruned_trial_has_its_best_value(tmp_path, capsys):
    storage = open_journal(tmp_path)
    study = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    trial = study.ask()
    for validation, value in ((1, 0.5), (2, 0.3)):
        trial.report(value, validation)
    write_result(tmp_path, 0.5, "val/miou", pruned=2)
    process = SimpleNamespace(folder=tmp_path, trial=trial, number=0, lease=SimpleNamespace(release=lambda: None))
    driver.Driver.finish(SimpleNamespace(journal=storage, study=study, monitor="val/miou", limit=1), process, "")
    (found,) = study.get_trials()
    assert (found.state, found.value) == (optuna.trial.TrialState.PRUNED, 0.5)
    assert "0.5" in capsys.readouterr().out


@pytest.mark.slow
def test_a_search_with_real_trials(run, tmp_path):
    bad = ("optimizer.lr=0.01,-1", "sampler=grid", "workers=2")
    result = run("scripts/search.py", "study=s", *UNET, *RUN, *bad)
    assert result.code == 1
    table = {row["optimizer.lr"]: row for row in rows(tmp_path / "s/trials.csv")}
    assert (table["0.01"]["state"], table["0.01"]["validations"]) == ("complete", "3")
    assert table["-1"]["error"] == "optimizer.lr=-1: Invalid learning rate: -1"
    command = next(line for line in result.out.splitlines() if line.startswith("python train.py"))
    again = run(*shlex.split(command)[1:], "output_dir=again")
    assert again.code == 0, again.out
    best = json.loads((tmp_path / "again/result.json").read_text())["best"]
    assert best == pytest.approx(float(table["0.01"]["val/miou"]), rel=0.02), "but for the number of threads"


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_other_samplers(stub, tmp_path, sampler):
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="needs pip install segframe[search]")
    assert stub("trials=2", LR, "a=interval(0,1)", "b=x,y", f"sampler={sampler}").code == 0
    assert len({(row["optimizer.lr"], row["a"]) for row in rows(tmp_path / "s/trials.csv")}) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([LR], "study must be given: study=<folder of the search, a folder per trial in it; "),
        (["study=s", LR, "output_dir=x"], "output_dir=x: the trials' folders lie in that of the study"),
        (["study=s", LR, "sampler=tpee"], "sampler=tpee: there is no such option; did you mean tpe?"),
        (["study=s", LR, "sampler=grid"], "sampler=grid: optimizer.lr is an interval"),
        (["study=s", LR, "pruner.n_warmup=2"], "pruner.n_warmup is not a setting; did you mean pruner.n_warmup_steps?"),
        (["study=s", LR, "-m"], "-m: a search draws its trials' settings itself"),
        (["study=.", LR], "study=.: the folder holds other files (x)"),
    ],
)
def test_settings_of_the_search_itself(run, tmp_path, words, expected):
    (tmp_path / "x").touch()
    assert run("scripts/search.py", *words).error.startswith(f"error: {expected}")
