"""Every setting of configs/ is described where it is introduced, and the reference shows it."""

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "docs/_ext"))
import config_reference  # type: ignore[import-not-found]


def test_every_setting_has_a_description():
    assert config_reference.undescribed() == []


def test_every_option_has_a_header():
    assert config_reference.without_header() == []


@pytest.fixture(scope="module")
def page():
    return config_reference.reference()


@pytest.mark.parametrize(
    "row",
    [
        "| `trainer.compile` | `auto` | auto, true or false | ",
        "| `backbone.multi_grid` | `null` | `list[int] \\| null` | dilations of layer4's blocks",
        "| `trainer.max_steps` | `null` | `int \\| null`, 1 or more | optimizer steps; if set, it replaces",
        "| `data.root` | required | `str \\| null` | folder of the dataset's files; nothing outside it is read |",
        "| `data.dataset.classes` | `null` | `str \\| list[str] \\| null` | needed: \\[background, cat, ...\\]",
        "| `callbacks.curves.every_n_steps` | `20` | `int` | optimizer steps between two points |",
        "| `hydra.launcher.timeout_min` | `1440` | time limit of a job in minutes;",
        "| `seed` | `0` | `int`, between 0 and 4294967295 | of weights, order of images, augmentation and dropout |",
    ],
)
def test_the_reference_shows_default_type_and_meaning(page, row):
    assert row in page


def test_the_reference_lists_every_option(page):
    for group in config_reference.GROUPS:
        for option in config_reference.schema.options(group) if group != "script" else ():
            shown = f"**`{option}`**" if group == "experiment" else f"| `{option}` |"
            assert shown in page, f"{group}={option}"
