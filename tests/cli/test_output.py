"""Standard output that ends before the program, and what a resumed run takes from the config of the one before."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from segframe.config.validate import check_numbers
from segframe.errors import UserError
from segframe.training.run_dir import computed

PROGRAM = """
import sys
from segframe.cli.streams import make_lasting
make_lasting()
for k in range(3):
    print("\\xb7" * 100_000, flush=True)
print("went on", file=sys.stderr)
"""


@pytest.mark.parametrize("out", ["/dev/full", "pipe"])
def test_a_program_goes_on_without_a_reader(out):
    command = [sys.executable, "-c", PROGRAM]
    if out == "pipe":
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        program.stdout.close()
        told = program.stderr.read()
        program.stderr.close()
        assert program.wait() == 0
    else:
        with open(out, "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert result.returncode == 0
        told = result.stderr
        assert "standard output cannot be written any more: No space left on device" in told
    assert told.endswith("went on\n")


def test_a_program_goes_on_where_a_sign_cannot_be_written():
    command = [sys.executable, "-X", "utf8=0", "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr, result.stdout[:3]) == (0, "went on\n", "???")


def test_a_runs_config_holds_what_was_computed(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    config = OmegaConf.create({"root": "${oc.env:SCRATCH}/photos", "seed": "${other}", "other": 1, "scales": [1, 2]})
    assert computed(config) == {"root": "/scratch/photos", "seed": "${other}", "other": 1, "scales": [1, 2]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**30])
def test_numbers_are_finite(value):
    with pytest.raises(UserError, match=r"a\.b\[1\]=.*: a finite number is needed"):
        check_numbers(OmegaConf.create({"a": {"b": [1.0, value]}}))
