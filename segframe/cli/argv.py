"""The words of a command line, before anything is composed."""

import inspect
from itertools import pairwise
from pathlib import Path
from shlex import quote

from hydra.core.config_store import ConfigStore

from segframe.cli.error_messages import closest_setting
from segframe.config.composition import train_command
from segframe.config.overrides import quoted
from segframe.config.run_schema import DataConfig
from segframe.config.schema import CONFIG_DIR
from segframe.errors import UserError

PATHS = (
    "checkpoint",
    "resume",
    "init_from",
    "input",
    "output",
    "output_dir",
    "json",
    "plot",
    "study",
    "camvid",
    "data.root",
    "data.dataset.images",
    "data.dataset.masks",
    "data.dataset.annotations",
    "data.cache_dir",
    "data.weights",
    "backbone.weights",
    "hydra.sweep.dir",
)
"""Settings whose values are paths; they are quoted, since Hydra's grammar does not accept every character of a path."""

FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc", "--experimental-rerun"),
)
"""Hydra's flags without a value, or with one that belongs to their word."""
FLAGS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--info", "-i"),
)
"""Hydra's flags whose value may be the next word."""


def split_flags(argv: list[str], config_name: str = "train") -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and all other words; UserError, with the setting of the program, for others."""
    flags: list[str] = []
    words: list[str] = []
    for before, word, after in zip(["", *argv], argv, [*argv[1:], ""], strict=False):
        is_flag = word.startswith("-") or (before in FLAGS_WITH_VALUE and "=" not in word)
        if word.startswith("-") and word.partition("=")[0] not in (*FLAGS, *FLAGS_WITH_VALUE):
            name, equals, value = word.lstrip("-").partition("=")
            if not equals and "=" not in after and not after.startswith("-"):
                value = after
            setting = closest_setting(name.replace("-", "_"), config_name)
            raise UserError(f"{word}: a setting has no dashes; type {setting}={value or '...'}")
        (flags if is_flag else words).append(word)
    return flags, words


def take_debug(argv: list[str]) -> None:
    """Remove `debug=true|false` from the command line: it concerns this call alone and is no setting of a run."""
    for word in [word for word in argv if word.startswith("debug=")]:
        if word not in ("debug=true", "debug=false"):
            raise UserError(f"{word}: it is true or false; debug=true shows the traceback of every error")
        argv.remove(word)


def take_config_dir(argv: list[str]) -> Path | None:
    """The folder of the user's own configs: that of --config-dir, else ./configs, which is then added as a flag."""
    names = ("--config-dir", "-cd")
    given = [word for before, word in pairwise(argv) if before in names]
    given += [word.partition("=")[2] for word in argv if word.startswith(tuple(f"{name}=" for name in names))]
    if given:
        if not Path(given[0]).is_dir():
            raise UserError(f"--config-dir={given[0]}: there is no such folder; give that of your own configs")
        return Path(given[0])
    own = Path("configs")
    if not own.is_dir() or own.resolve() == CONFIG_DIR:
        return None
    argv.append(f"--config-dir={own}")
    return own


def check_values(words: list[str]) -> None:
    """UserError where a value is empty, as `output_dir=$UNSET` makes it."""
    for word in words:
        if word.endswith("=") and word != "=":
            raise UserError(f"{word}: the value is empty; is a shell variable unset? {word}null means none")


def expand_home(word: str) -> str:
    """`key=~/x` with the home directory, which shells insert into some such words only."""
    key, equals, value = word.partition("=")
    return f"{key}={Path(value).expanduser()}" if equals and value.startswith("~/") else word


def quote_paths(words: list[str], sweeps: bool = False) -> list[str]:
    """The words, with the values of PATHS quoted where Hydra's grammar needs it; in a sweep commas part values."""
    quoted_words = []
    for word in words:
        key, equals, value = word.partition("=")
        is_path = equals and key in PATHS and not (sweeps and "," in value)
        quoted_words.append(f"{key}={quoted(value)}" if is_path else word)
    return quoted_words


def given_path(name: str, argv: list[str]) -> Path | None:
    """The path that the command line gives as `name=...`; None where it gives none or null."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return Path(values[-1]) if values and values[-1] not in ("", "null") else None


def collect_runs(argv: list[str]) -> list[str]:
    """argv with its paths as `runs=[...]`, and as `checkpoint=` the first that is not evaluate's results."""
    runs: list[str] = []
    others: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        is_flag = word.startswith("-") or before in FLAGS_WITH_VALUE
        (others if is_flag or ("=" in word and not Path(word).exists()) else runs).append(word)
    if runs:
        others.append(f"runs=[{','.join(map(quoted, runs))}]")
    networks = [run for run in runs if not (Path(run) / "images.npz").is_file()]
    if networks and given_path("checkpoint", others) is None:
        others.append(f"checkpoint={networks[0]}")
    return others


def compare_arguments(argv: list[str]) -> list[str]:
    return checkpoint_options(collect_runs(argv))


def with_defaults(node: dict[str, object]) -> dict[str, object]:
    """Complete the stored config of one of segframe's inferences with the defaults of settings that are newer."""
    from segframe import inference

    name = str(node.get("_target_")).removeprefix("segframe.inference.")
    parameters = inspect.signature(vars(inference)[name]).parameters if name in inference.__all__ else {}
    defaults = {key: value.default for key, value in parameters.items() if value.default is not inspect.Parameter.empty}
    return defaults | node


def checkpoint_options(argv: list[str]) -> list[str]:
    """Register the options `data=checkpoint` and `inference=checkpoint`, those that `checkpoint=...` was trained with.

    argv stays as it is. No more data loading workers are started than this machine's default.
    """
    path = given_path("checkpoint", argv)
    nodes: dict[str, dict[str, object]] = {"data": {}, "inference": {"_target_": "segframe.inference.WholeImage"}}
    if path is not None:
        # These import torch, which --help does without.
        from segframe.data.loader import count_workers
        from segframe.inference.open_network import read_metadata

        config = read_metadata(path).config
        for group in nodes:
            chosen = [word for word in argv if word.startswith(f"{group}=") and word != f"{group}=checkpoint"]
            if isinstance(config.get(group), dict) and not chosen:
                nodes[group] = config[group]
        nodes["inference"] = with_defaults(nodes["inference"])
        data = {key: value for key, value in nodes["data"].items() if key in DataConfig.__dataclass_fields__}
        workers = data.get("num_workers")
        if data and (not isinstance(workers, int) or workers > count_workers(None)):
            data["num_workers"] = None
        nodes["data"] = data
    for group, node in nodes.items():
        ConfigStore.instance().store(group=group, name="checkpoint", node=node)
    return argv


def check_data_arguments(argv: list[str]) -> list[str]:
    """argv with the settings of what data.root holds, unless it has data=...; prints them as a command that trains."""
    values = dict(word.partition("=")[::2] for word in argv if "=" in word)
    if "data" in values or "data.root" not in values or {*FLAGS} & {*argv}:
        return argv
    from segframe.data.recognition import recognize  # imports torch, which --help does without

    root = values["data.root"].strip("'\"")
    given = [word for word in argv if word.startswith("data.dataset.")]
    what, settings = recognize(Path(root), given)
    own = [word for word in argv if word.startswith("data.")]
    words = [settings[0], *own, *settings[1:]]
    print(f"{root}: {what}\nto train on it:\n  {train_command()} {' '.join(map(quote, words))}\n", flush=True)
    return [*words, *(word for word in argv if word not in own)]
