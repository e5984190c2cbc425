"""`resume=<folder>`: compose from that run's own config.yaml."""

import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from segframe.cli.argv import given_path, split_flags
from segframe.config import run_schema, schema, validate
from segframe.config.overrides import key_of, quoted
from segframe.config.saved_run import check_same_parts, check_saved_run, holds_run
from segframe.errors import UserError


def resume_arguments(argv: list[str]) -> list[str]:
    """The words that let Hydra compose `resume=<folder>` from that folder's own config.yaml, and run there.

    `resume=auto` continues the run in `output_dir` if it has a checkpoint and starts it otherwise, so that the same
    command can be submitted again and again: its options of config groups must be those that the run was started with,
    its values and additions are set again. The jobs of a sweep are composed anew, see training.run_dir.find_run_dir.
    """
    flags, words = split_flags(argv)
    folder, output = given_path("resume", words), given_path("output_dir", words)
    sweeps = {"-m", "--multirun"} & set(flags)
    if folder is None or {"-h", "--help"} & set(flags):
        return argv
    groups = [word for word in words if key_of(word) in schema.groups()]
    if str(folder) == "auto":
        if output is None:
            raise UserError("resume=auto: it needs the folder whose run continues or starts; add output_dir=...")
        if sweeps or not holds_run(output):
            return argv
        folder = output
        plain = [word for word in words if word[0] != "~" and word not in groups]
        words = [word for word in plain if key_of(word) not in ("resume", "output_dir")]
        words = [f"++{word.lstrip('+')}" if word[0] == "+" else word for word in words]
        words.append(f"resume={quoted(str(folder))}")
    elif sweeps:
        raise UserError(f"resume={folder}: a sweep cannot continue one run; init_from={folder} starts each from it")
    elif groups:
        raise UserError(
            f"{groups[0]}: resume continues a run with its own parts; init_from={folder} starts another run"
        )
    if given_path("init_from", words) is not None and given_path("resume", argv) != Path("auto"):
        raise UserError("init_from: a resumed run has its own weights; leave out init_from or resume")
    if folder.suffix == ".ckpt":
        raise UserError(f"resume={folder}: give the run's folder, resume={folder.absolute().parent.parent}")
    if not holds_run(folder):
        raise UserError(f"resume={folder}: no run to continue; it would hold config.yaml and checkpoints/last.ckpt")
    if output is not None and output.resolve() != folder.resolve():
        raise UserError(f"output_dir={output}: a run continues in its own folder; to keep it as it is, resume a copy")
    try:
        check_saved_run(folder, *given(words))
    except UserError as error:
        raise UserError(f"resume={folder}: {error}") from error
    check_same_parts(folder, groups)
    stored = OmegaConf.load(folder / "config.yaml")
    words = [f"++{word}" if is_newer_setting(word.partition("=")[0], stored) else word for word in words]
    own = [f"--config-path={folder.resolve()}", "--config-name=config.yaml"]
    logs = ["hydra.job_logging.formatters.simple.format='%(message)s'", "+hydra.job_logging.handlers.file.delay=true"]
    hydras = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null", "hydra.job.name=train", *logs]
    return [*own, *flags, *words, *hydras]


def is_newer_setting(key: str, stored: Any) -> bool:
    """Whether a setting was added after a run's config was stored, so that Hydra would not let it be changed."""
    config: Any = OmegaConf.structured(run_schema.TrainConfig)
    parent, _, name = key.rpartition(".")
    known, node = (OmegaConf.select(c, parent) if parent else c for c in (config, stored))
    return OmegaConf.is_dict(known) and name in known and OmegaConf.is_dict(node) and name not in node


def given(words: list[str]) -> tuple[list[str], list[str]]:
    """The dotted names of all settings that the command line gives, also within a mapping, and the names in `trust`."""
    settings: dict[str, object] = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
            values = validate.nodes(override.value(), override.key_or_group)
            settings |= {path: value for path, value in values if not isinstance(value, dict | list)}
        except HydraException:
            pass  # Hydra reports it when it composes
    return list(settings), [str(name) for key, name in settings.items() if re.fullmatch(r"trust\[\d+\]", key)]
