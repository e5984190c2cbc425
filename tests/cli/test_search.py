"""Hyperparameter search: nothing is lost and nothing doubled, whatever is killed; bad trials end early."""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import optuna
import pytest
from conftest import ROOT, RUN, UNET, rows

from segframe import preemption
from segframe.cli import search as driver
from segframe.cli import study_setup, trial_process
from segframe.cli.search_space import TrialFacts, read_space
from segframe.training.study import Lease, TrialAddress, open_journal, read_result

TRIAL = """
import fcntl, json, os, signal, sys, time
from pathlib import Path
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
folder, lr = Path(words["output_dir"]), float(words["optimizer.lr"])
signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
alone = (folder / "alone").open("w")
fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two processes in one folder are an error
(folder / "pid").write_text(str(os.getpid()))
step = folder / "step"
done = int(step.read_text() or 0) if step.exists() else 0
with (folder / "starts").open("a") as file:
    file.write(f"{done}\\n")
for k in range(done, int(words.get("steps", 1))):
    time.sleep(0.1)
    step.with_suffix(".new").write_text(str(k + 1))
    step.with_suffix(".new").rename(step)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/last.ckpt").touch()
if lr > float(words.get("limit", 1e9)):
    sys.exit("error: optimizer.lr: too large")
(folder / "result.new").write_text(json.dumps({"monitor": "val/miou", "best": 1 - lr}))
(folder / "result.new").rename(folder / "result.json")
"""
DRIVER = """
import sys
from segframe.cli import search, study_setup
from segframe.cli.main import run
search.COMMAND = [sys.executable, "trial.py"]
study_setup.check_space = lambda *_: study_setup.TrialFacts("val/miou", "max", 1)
run("search")
"""
LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"


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


def states(folder):
    """The states of a study's trials, by number."""
    storage = open_journal(folder)
    return [trial.state.name for trial in storage.get_all_trials(storage.get_study_id_from_name("study"))]


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
    assert {key: row["state"] for key, row in table.items()} == {
        "0.1": "complete",
        "0.3": "complete",
        "0.4": "fail",
    }
    assert table["0.4"]["error"] == "optimizer.lr: too large"
    assert "failed: optimizer.lr: too large" in result.out


def start_driver(tmp_path, *words):
    """A driver in a process of its own."""
    (tmp_path / "trial.py").write_text(TRIAL)
    (tmp_path / "search.py").write_text(DRIVER)
    command = [sys.executable, "search.py", "study=s", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "out").open("a") as out:
        return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out)


def end_of(process, tmp_path):
    """The exit code of a driver."""
    code = process.wait(timeout=120)
    print((tmp_path / "out").read_text())
    return code


def wait_for(condition):
    """Until something is true."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def numbers(tmp_path):
    """The numbers of the trials that have been started."""
    return sorted(int(path.parent.name) for path in tmp_path.glob("s/*/starts"))


def check_complete(tmp_path, count):
    """Each trial is in the journal once, complete, with the value of its own folder; none had two processes."""
    assert states(tmp_path / "s") == ["COMPLETE"] * count
    assert numbers(tmp_path) == list(range(count))
    table = rows(tmp_path / "s/trials.csv")
    assert sorted(int(row["trial"]) for row in table) == list(range(count))
    assert len({row["optimizer.lr"] for row in table}) == count  # drivers draw differently
    for row in table:
        result = json.loads((tmp_path / row["folder"] / "result.json").read_text())
        assert float(row["val/miou"]) == result["best"] == 1 - float(row["optimizer.lr"])


@pytest.mark.slow
def test_two_drivers_of_which_one_is_killed_twice(tmp_path):
    words = ("trials=12", LR, "+steps=8")
    first, second = start_driver(tmp_path, *words), start_driver(tmp_path, *words, "workers=2")
    for count in (3, 6):
        wait_for(lambda count=count: len(numbers(tmp_path)) >= count)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        first = start_driver(tmp_path, *words)
    assert [end_of(first, tmp_path), end_of(second, tmp_path)] == [0, 0]
    check_complete(tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_three_drivers_and_their_trials_are_killed_at_random(tmp_path, seed):
    rng = random.Random(seed)

    def start():
        return start_driver(tmp_path, "trials=15", LR, "+steps=6", f"workers={rng.randint(1, 3)}")

    drivers = [start() for _ in range(3)]
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.02, 0.5))
        k = rng.randrange(3)
        processes = [path for path in tmp_path.glob("s/*/pid") if not (path.parent / "result.json").is_file()]
        if processes and rng.random() < 0.5:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(rng.choice(processes).read_text()), signal.SIGKILL)
        elif drivers[k].poll() is None:
            drivers[k].send_signal(rng.choice((signal.SIGKILL, signal.SIGTERM)))
        else:
            drivers[k] = start()
    for process in [*drivers, start()]:
        process.wait(timeout=120)
    check_complete(tmp_path, 15)
    assert "Traceback" not in (tmp_path / "out").read_text()


@pytest.mark.slow
def test_a_killed_trial_goes_on_in_its_folder(tmp_path):
    process = start_driver(tmp_path, "trials=2", LR, "+steps=10")
    for step in ("2", "5"):
        wait_for(lambda step=step: (tmp_path / "s/0/step").is_file() and (tmp_path / "s/0/step").read_text() >= step)
        os.kill(int((tmp_path / "s/0/pid").read_text()), signal.SIGKILL)
    assert end_of(process, tmp_path) == 0
    check_complete(tmp_path, 2)
    assert len((tmp_path / "s/0/starts").read_text().split()) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.slow
def test_a_signal_to_the_driver_ends_its_trials_which_a_later_call_continues(tmp_path, number, code):
    words = ("trials=3", "workers=2", LR, "+steps=15")
    process = start_driver(tmp_path, *words)
    wait_for(lambda: all((tmp_path / f"s/{k}/step").is_file() for k in range(2)))
    process.send_signal(number)
    assert end_of(process, tmp_path) == code
    assert states(tmp_path / "s") == ["RUNNING", "RUNNING"]
    assert end_of(start_driver(tmp_path, *words), tmp_path) == 0
    check_complete(tmp_path, 3)
    for k in range(2):
        first, second = map(int, (tmp_path / f"s/{k}/starts").read_text().split())
        assert first == 0 < second


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


@pytest.mark.slow
def test_trials_end_when_their_driver_is_killed(tmp_path):
    words = (*UNET, *RUN[1:], "trainer.max_steps=100000", LR, "trials=1")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen([sys.executable, ROOT / "scripts/search.py", "study=s", *words], cwd=tmp_path, env=env)
    wait_for((tmp_path / "s/0/checkpoints/last.ckpt").is_file)
    process.kill()
    process.wait()
    wait_for(lambda: "SIGTERM: step " in (tmp_path / "s/0/trial.log").read_text())
    wait_for(lambda: Lease.take(tmp_path / "s/0"))


def test_a_lease_is_taken_once_and_outlives_its_holder_in_a_child(tmp_path):
    lease = Lease.take(tmp_path / "0")
    assert lease
    assert Lease.take(tmp_path / "0") is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lease.file])
    os.close(lease.file)
    assert Lease.take(tmp_path / "0") is None
    child.communicate(b"\n")
    assert Lease.take(tmp_path / "0")


def test_a_lease_of_another_machine_is_respected_while_it_is_fresh(tmp_path):
    """Where locks do not reach across machines, only the file's name and time do."""
    (tmp_path / "0").mkdir()
    path = tmp_path / "0/.lease"
    path.write_text("another")
    assert Lease.take(tmp_path / "0") is None
    os.utime(path, (time.time() - 130,) * 2)
    assert Lease.take(tmp_path / "0")


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
        (["study=s", LR, "head="], "head=: the value is empty"),
        (["study=s", LR, "trials=0"], "trials=0: it must be 1 or more"),
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
