"""The draft of a plan: the user's overrides and the decisions made so far, as one composed config."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from segframe.analysis.planning.decision import Decision
from segframe.config import composition, schema
from segframe.errors import UserError

ALTERNATIVES = {
    "trainer.max_steps": ("trainer.max_epochs",),
    "trainer.val_every_n_steps": ("trainer.val_every_n_epochs",),
    "data.crop_size": ("transforms.crop_size",),
}
"""Alternatives to a setting: if the user has typed one of them, the plan leaves the setting out."""


NOTHING = object()
"""Marks a setting that does not exist in the config."""


class Draft:
    """Decisions as overrides of the training's config; the user's own come last and stand.

    `config` is the training's with all of them.
    """

    def __init__(self, words: Sequence[str], choices: Mapping[str, Any]) -> None:
        self.words = list(words)
        self.choices = choices
        self.decisions: list[Decision] = []
        self.given = read_words(words)
        if "model" in self.given:  # an experiment names what a preset chooses
            del self.given["model"]
            default = composition.compose("train", return_hydra_config=True).hydra.runtime.choices
            groups = [group for group in schema.groups() if group in default and group != "model"]
            self.given |= {group: choices[group] for group in groups if choices[group] != default[group]}
        self.config = self.compose()

    def compose(self) -> DictConfig:
        words = [f"{decision.key}={as_word(decision.value)}" for decision in self.decisions]
        config = composition.compose("train", [*words, *self.words])
        config.output_dir = config.output_dir or "outputs"  # callbacks and loggers refer to it
        return config

    def with_settings(self, settings: Mapping[str, Any]) -> DictConfig:
        config = deepcopy(self.config)
        for key, value in settings.items():
            OmegaConf.update(config, key, value)
        return config

    def add(self, *decisions: Decision) -> None:
        """Add decisions, without those that the user has made, and settings that the chosen options do not have."""
        free = [decision for decision in decisions if not self.is_given(decision.key)]
        options = [decision for decision in free if decision.key in schema.groups()]
        if options:
            self.decisions += options
            self.config = self.compose()
        for decision in free:
            exists = OmegaConf.select(self.config, decision.key, default=NOTHING) is not NOTHING
            if decision not in options and exists:
                self.decisions.append(decision)
                OmegaConf.update(self.config, decision.key, decision.value)

    def is_given(self, key: str) -> bool:
        """Whether the user has typed a setting, one that replaces it, or a mapping that holds it."""
        parents = [name for name in self.given if key.startswith(f"{name}.") and name not in schema.groups()]
        return bool(parents) or any(name in self.given for name in (key, *ALTERNATIVES.get(key, ())))

    def all(self) -> list[Decision]:
        """Return what the user has typed and the decisions, options of groups before settings."""
        data = [] if "data" in self.given else [Decision("data", self.choices["data"], "the default")]
        typed = [Decision(key, value, "as given", given=True) for key, value in self.given.items()]
        return sorted([*data, *typed, *self.decisions], key=lambda decision: decision.key not in schema.groups())


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Return settings and options by key; UserError for words that an experiment file cannot hold."""
    values = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        word = override.input_line
        if override.is_delete() or override.package is not None:
            raise UserError(f"{word}: a plan's file cannot hold it; leave it out here and type it to train.py")
        values[override.key_or_group] = override.value()
    for key in ("experiment", "resume"):
        if values.get(key) is not None:
            raise UserError(f"{key}={values[key]}: a plan is an experiment of its own; leave it out")
    return values


def as_word(value: Any) -> str:
    """Return a decision's value as the command line spells it."""
    return value if isinstance(value, str) else json.dumps(value)
