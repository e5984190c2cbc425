"""The wheel in an environment of its own: the console command works from any folder."""

import json
import os
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT, TINY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The console command of segframe's wheel in a new environment, which borrows the libraries of this one."""
    top = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", top, ROOT], check=True)
    (wheel,) = top.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", top / "env"], check=True)
    subprocess.run([*pip, "--python", top / "env/bin/python", "install", "--no-deps", wheel], check=True)
    (site,) = (top / "env/lib").glob("python*/site-packages")
    # A path in a .pth file adds the libraries, but not the checkout, which a .pth file among them names.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])

    def run(*words, cwd):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [top / "env/bin/segframe", *words], cwd=cwd, env=environment, capture_output=True, text=True
        )

    return run


def test_train_evaluate_and_own_configs(command, tmp_path):
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/model/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backbone: unet\n  - override /head: unet\n"
        "backbone: {channels: [4, 4, 4, 4, 4]}\nhead: {channels: [4, 4, 4, 4]}\n"
    )
    settings = [word for word in TINY if not word.startswith(("backbone", "head"))]
    result = command("train", "model=mine", *settings, "trainer.max_steps=2", "output_dir=first", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    environment = json.loads((tmp_path / "first/environment.json").read_text())
    assert environment["git"] is None
    result = command("evaluate", "checkpoint=first", "output_dir=metrics", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "val/miou" in json.loads((tmp_path / "metrics/metrics.json").read_text())


def test_misspelt_words(command, tmp_path):
    result = command("trian", cwd=tmp_path)
    assert result.returncode == 1
    assert "segframe trian: unknown program; choose one of train, evaluate" in result.stderr
    result = command("train", "model=fcn9s", cwd=tmp_path)
    assert "model=fcn9s: there is no such option; did you mean fcn8s?" in result.stderr
    assert list(tmp_path.iterdir()) == [], "a refused run leaves no folder"
