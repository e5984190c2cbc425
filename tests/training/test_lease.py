"""Leases of trials' folders: one process trains in a folder, on whichever machine."""

import os
import subprocess
import sys
import time

from segframe.training.study import Lease


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
