"""How a process finds out that it is one of several, and how many it starts."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from processes import fork
from torch import distributed as dist

from segframe import distributed
from segframe.cli import launch, main, process_group
from segframe.errors import UserError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLURM = {
    # of `srun --nodes=2 --ntasks=4`, for which Lightning's SLURMEnvironment wants --ntasks-per-node
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def numbers_of(monkeypatch: pytest.MonkeyPatch, **changes: str) -> dict[str, str | None]:
    """The variables of torchrun that a process sets in a step of Slurm."""
    with monkeypatch.context() as patch:
        environ = {**SLURM, **changes}
        patch.setattr("os.environ", environ)
        process_group.use_slurm_variables()
        return {name: environ.get(name) for name in NUMBERS}


def test_a_step_of_slurm_sets_the_variables_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = numbers_of(monkeypatch)
    port = numbers.pop("MASTER_PORT")
    assert list(numbers.values()) == ["3", "4", "1", "2", "gpu07"]
    assert port is not None
    assert 15000 <= int(port) < 32000  # below the ports that systems give to any program
    assert numbers_of(monkeypatch, SLURM_PROCID="0", SLURM_LOCALID="0")["MASTER_PORT"] == port


def test_steps_and_jobs_that_run_side_by_side_meet_at_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [(str(job), str(step)) for job in range(1000, 1010) for step in range(10)]
    ports = [numbers_of(monkeypatch, SLURM_JOB_ID=j, SLURM_STEP_ID=s)["MASTER_PORT"] for j, s in jobs]
    assert len(set(ports)) == len(jobs)


def test_a_users_port_and_torchruns_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers_of(monkeypatch, MASTER_PORT="1234")["MASTER_PORT"] == "1234"
    assert numbers_of(monkeypatch, RANK="0")["WORLD_SIZE"] is None


@pytest.mark.parametrize("changes", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "2"}])
def test_a_single_task_is_an_ordinary_process(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]) -> None:
    # A batch script without srun has SLURM_NTASKS and SLURM_PROCID, but no step.
    monkeypatch.setattr("os.environ", {"SLURM_PROCID": "0", "SLURM_JOB_ID": "1", **changes})
    process_group.use_slurm_variables()
    assert not process_group.is_distributed()


@pytest.mark.parametrize(
    ("names", "first"),
    [("vm", "vm"), ("a1,a2", "a1"), ("gpu[07-09,12],login", "gpu07"), ("n-a[3]", "n-a3"), ("r[1-2]n[01-04]", "r1n01")],
)
def test_the_first_machine_of_slurms_list(names: str, first: str) -> None:
    assert process_group.first_node(names) == first


@pytest.mark.parametrize("devices", [0, -1, 1.0, 1.5, "abc", None, True, [0, 1]])
def test_a_wrong_number_of_devices_is_refused(devices: Any) -> None:
    config = OmegaConf.create({"trainer": {"devices": devices, "num_nodes": 1, "accelerator": "cpu"}})
    with pytest.raises(UserError, match=r"^trainer.devices=.*: it must be a number of devices, or auto"):
        launch.count_devices(config)


@pytest.mark.parametrize("devices", [1, 2, "auto"])
def test_machines_that_this_process_cannot_start_are_refused(devices: Any) -> None:
    config = OmegaConf.create({"trainer": {"devices": devices, "num_nodes": 2, "accelerator": "cpu"}})
    with pytest.raises(UserError, match=r"^trainer.num_nodes=2: .* torchrun or srun"):
        launch.count_devices(config)


def test_processes_that_do_not_meet_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def join() -> None:
        raise torch.distributed.DistNetworkError("The server socket has failed to listen\nC++ stack")

    monkeypatch.setattr(distributed, "join", join)
    for name, value in zip(NUMBERS, ["0", "2", "0", "2", "gpu07", "1234"], strict=True):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(SystemExit, match=r"^error: process 0 .* gpu07:1234: .* listen; .* MASTER_PORT"),
        process_group.joined(),
    ):
        pass


def test_a_sweeps_job_elsewhere_starts_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(launch, "launch", lambda function, advice, config, devices: started.append(devices))
    config = OmegaConf.create({"trainer": {"devices": 3, "num_nodes": 1, "accelerator": "cpu"}})
    main.call(main.PROGRAMS["train"], config)
    assert started == [3]


def test_what_processes_receive_of_hydra_has_no_types_of_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Launcher:  # like those of plugins, which pickle does not find under their name
        folder: str = "${hydra.sweep.dir}/.submitit"

    content = {"mode": RunMode.MULTIRUN, "sweep": {"dir": "a"}, "job": {"num": "???"}, "launcher": Launcher()}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": content}))
    received = pickle.loads(pickle.dumps(launch.hydra_config())).hydra
    assert received.mode is RunMode.MULTIRUN
    assert received.launcher.folder == "a/.submitit"
    assert OmegaConf.is_missing(received.job, "num")


def test_a_second_ctrl_c_kills_the_workers_that_are_left(tmp_path: Path) -> None:
    workers = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2)]
    workers[0].kill()
    workers[0].wait()
    for worker in workers:
        (tmp_path / f"{worker.pid}.pid").touch()
    launch.kill_workers(tmp_path)
    assert workers[1].wait(5) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ((), "SIGTERM: ended before the start; the same command starts again\n"),
        (("job.begun",), ""),  # rank 0 has printed at which step
        (("job.begun", "job.result"), "SIGTERM: the job was complete\n"),
    ],
)
def test_where_a_signal_ends_a_job(tmp_path: Path, capsys: Any, left: tuple[str, ...], message: str) -> None:
    for name in left:
        (tmp_path / name).touch()
    launch.report_signal(signal.SIGTERM, tmp_path / "job")
    assert capsys.readouterr().out == message


def join_late() -> None:
    """For `fork`: rank 0 fails as soon as it has joined, while rank 1 is still joining."""
    distributed.PATIENCE = 0.2
    connect = dist.init_process_group

    def slowly(*arguments: Any, **settings: Any) -> None:
        connect(*arguments, **settings)
        time.sleep(1)
        settings["store"].get("address")

    if os.environ["RANK"] == "1":
        dist.init_process_group = slowly
    with process_group.joined():
        sys.exit("error: a wrong setting")


def test_a_process_that_joins_after_another_has_failed_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = fork(2, join_late)
    assert (first.code, second.code) == (1, 1)
    assert first.out == "error: a wrong setting\n"
    assert "error: " not in second.out
