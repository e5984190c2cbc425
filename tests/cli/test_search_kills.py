"""Searches whose drivers and trials are killed: nothing is lost and nothing doubled."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, RUN, UNET
from studies import LR, check_complete, end_of, start_driver, states, wait_for

from segframe.training.study import Lease


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
