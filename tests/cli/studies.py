"""Searches whose trials are a short program, in place of training, and drivers in processes of their own."""

import json
import os
import subprocess
import sys
import time

from conftest import ROOT, rows

from segframe.training.study import open_journal

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


def states(folder):
    """The states of a study's trials, by number."""
    storage = open_journal(folder)
    return [trial.state.name for trial in storage.get_all_trials(storage.get_study_id_from_name("study"))]


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
