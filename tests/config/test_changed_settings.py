"""The settings of a run that differ from the defaults, and those by which runs are compared."""

import pytest
from conftest import composed
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from segframe.config.changed_settings import changed_settings, compared_settings


def test_settings_that_differ():
    config = composed("backbone=unet", "head=unet", "optimizer=adamw", "optimizer.lr=0.5", "data.crop_size=64")
    config.output_dir = "somewhere/else"
    changed = {
        name: (value, default)
        for name, value, default in changed_settings(OmegaConf.to_container(config, resolve=True))
    }
    assert changed["optimizer.lr"] == ("0.5", str(composed().optimizer.lr))
    assert changed["optimizer"] == ("AdamW", "SGD")
    assert changed["backbone"][1] == "ResNet"
    assert changed["transforms.train[0].size"] == ("64", "96")
    assert not {"optimizer.momentum", "backbone.variant"} & changed.keys()  # of the parts that are not there
    assert not any("dirpath" in name or name.startswith(("output_dir", "callbacks", "logger")) for name in changed)
    default = composed()
    assert changed_settings(OmegaConf.to_container(default, resolve=True)) == []


@pytest.fixture
def typed(monkeypatch):
    """Lets these words be those of the command line."""

    def set_words(*words):
        hydra = OmegaConf.create({"overrides": {"task": list(words)}})
        monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
        monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
        return composed(*words)

    return set_words


def test_runs_are_compared_by_what_was_changed_or_typed(typed):
    config = typed("optimizer.lr=0.5", "trainer.max_epochs=50", "data.crop_size=64", "logger=none", "data.root=/photos")
    found = compared_settings(config)
    assert found == {"optimizer.lr": 0.5, "trainer.max_epochs": 50, "data.crop_size": 64, "logger": "none"}
    assert composed().trainer.max_epochs == 50, "typed, though it is the default"


def test_a_typed_setting_that_repeats_another_is_left_out(typed):
    assert compared_settings(typed("data.batch_size=4", "scheduler.warmup_steps=${data.batch_size}")) == {
        "data.batch_size": 4
    }


def test_parts_have_the_names_of_their_options(typed):
    found = compared_settings(typed("model=fcn8s", "optimizer=adamw", "trainer.compile=false"))
    assert (found["model"], found["optimizer"], found["trainer.compile"]) == ("fcn8s", "adamw", "false")
