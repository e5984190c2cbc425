"""What tests share: composed configs, the lists of shipped YAML files."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from segframe import config as schema

ROOT = Path(__file__).parents[1]
schema.register()
# Two test processes or a training beside them must not fight for the cores.
torch.set_num_threads(int(os.environ.get("SEGFRAME_TEST_THREADS", "2")))


def options(group: str) -> list[str]:
    """The files of a config group that users choose from."""
    return sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml") if path.stem[0] != "_")


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """A config as the command line would compose it."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(name, list(overrides))
    OmegaConf.set_struct(config, False)
    config.output_dir = "outputs/test"
    return config


@pytest.fixture
def run_program(tmp_path, monkeypatch, capfd):
    """Runs train.py or a script in this process's Python as a child: (arguments) -> (exit code, stdout, stderr)."""
    import subprocess

    def run(script: str, *arguments: object, timeout: float = 240) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=tmp_path)

    return run
