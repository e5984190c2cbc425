"""Divides the command line of a search into its own settings and those of its trials."""

from dataclasses import fields
from importlib.util import find_spec

from hydra.core.config_store import ConfigStore

from segframe.cli.argv import check_values, split_flags
from segframe.config.overrides import key_of
from segframe.config.schema import SearchConfig
from segframe.errors import UserError

PROGRAM_SETTINGS = {field.name for field in fields(SearchConfig)} - {"overrides"}


def search_arguments(argv: list[str]) -> list[str]:
    """The words that are settings of the search itself; all others go to the trials, see SearchConfig.overrides."""
    flags, words = split_flags(argv)
    if {"-h", "--help"} & set(flags):
        return argv
    if {"-m", "--multirun"} & set(flags):
        raise UserError("-m: a search draws its trials' settings itself; leave it out")
    if find_spec("optuna") is None:
        raise UserError("search needs Optuna, which is not installed: pip install 'segframe[search]'")
    check_values(words)
    own: list[str] = []
    overrides: list[str] = []
    for word in words:
        key = key_of(word)
        if key in ("output_dir", "resume"):
            raise UserError(f"{word}: the trials' folders lie in that of the study; set study=... alone")
        is_own = key.partition(".")[0] in PROGRAM_SETTINGS or key.startswith("hydra")
        (own if is_own else overrides).append(word)
    ConfigStore.instance().store(name="search_schema", node=SearchConfig(overrides=overrides))
    return [*flags, *own]
