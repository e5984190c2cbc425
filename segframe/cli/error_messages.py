"""Errors of the command line and of YAML files as one line, with the closest match for a misspelt word."""

import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segframe.config import run_schema, schema
from segframe.config.composition import compose
from segframe.config.validate import RESERVED, did_you_mean, nodes, sets_key

KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "bool": "true or false"}


def first_line(error: Exception) -> str:
    """An error's message as one line, beginning with the key that it is about."""
    if isinstance(error, MissingMandatoryValue):
        key = str(error).partition("Missing mandatory value: ")[2].split()[0]
        return f"{key} must be given: {key}=..."
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    composing = re.fullmatch(r"In '(.+)': \w+ raised while composing config:", lines[0])
    if composing and lines[1:]:
        return f"configs/{composing[1]}.yaml: {explain_key(key, lines[1])}"
    if lines[0].endswith("is not Optional"):
        return f"{key or lines[0].split()[1]}=null: it must have a value"
    if wrong := re.match(r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", lines[0]):
        none = "; nothing is null" if wrong[1].lower() == "none" else ""
        return f"{key}={wrong[1]}: it must be {KINDS.get(wrong[2], wrong[2])}{none}"
    if ambiguous := re.fullmatch(r"Ambiguous value for argument '(.*)'", lines[0]):
        return f"{ambiguous[1]}: a list is [a,b], a decimal has a point, and several values are a sweep, with -m"
    if lines[0].endswith("is not a ListConfig, list or tuple."):
        return f"{key}: it must be a list, {key}=[...]"
    if removed := re.fullmatch(r"Could not delete from config. '(.*)' does not exist.", lines[0]):
        return f"~{removed[1]}: it is null already; leave ~{removed[1]} out"
    if added := re.fullmatch(r"Could not append to config. An item is already at '(.*)'.", lines[0]):
        return f"+{added[1]}: there is such a setting already; change it without the +"
    if isinstance(error, OSError) and error.filename is not None:
        wrong_path = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
        advice = "; choose a path that exists and may be used" if wrong_path else ""
        return f"{error.filename}: {error.strerror}{advice}"
    return f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]


def explain_missing(config: DictConfig, config_name: str) -> str:
    """The message that names all settings that must be given, with what the program's YAML file says of them."""
    missing = sorted(OmegaConf.missing_keys(config))
    missing = [name for name in missing if "." not in name] or missing  # others may follow from those of the root
    texts = [path.read_text(encoding="utf-8") for path in schema.yaml_files() if path.name == f"{config_name}.yaml"]
    comments = dict(re.findall(r"^(\w+): \?\?\? +# (.*)$", "".join(texts), re.MULTILINE))
    words = [f"{name}={f'<{comments[name]}>' if name in comments else '...'}" for name in missing]
    return f"{' and '.join(missing)} must be given: {' '.join(words)}"


def explain_key(key: str, line: str) -> str:
    """OmegaConf's message for a key of a YAML file, with the closest match for an unknown one."""
    unknown = re.fullmatch(r"Key '(.+)' not in '(\w+)'", line)
    classes = vars(run_schema) | vars(schema)
    known = list(getattr(classes.get(unknown[2]), "__dataclass_fields__", ())) if unknown else []
    if unknown and known:
        return f"{key} is not a setting{did_you_mean(unknown[1], known)}"
    if line.startswith("Merge error: list is not"):
        return "a mapping is expected; write its settings as name: value"
    return f"{key}: {line}" if key and key not in line else line


def yaml_error(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """The message for a YAML file of the config folders that cannot be parsed, with its line."""
    if isinstance(error, UnicodeDecodeError):
        files = [path for path in schema.yaml_files() if path.read_bytes() == error.object]
        if not files:  # it is no config
            raise error
        return f"{files[0]} is not UTF-8 text ({error.reason}); save it as UTF-8"
    mark = getattr(error, "problem_mark", None)
    if mark is None or not Path(mark.name).is_file():
        return " ".join(str(error).split())
    colour = re.search(r"[{,:]\s*#[0-9a-fA-F]{3}", Path(mark.name).read_text(encoding="utf-8", errors="replace"))
    hint = "; a # begins a comment, so colours are in quotes" if colour else ""
    return f"{mark.name}, line {mark.line + 1}: {' '.join(str(error.problem).split())}{hint}"


def explain(error: Exception, argv: list[str], config_name: str, config_dir: Path = schema.CONFIG_DIR) -> str:
    """The message for a command line that Hydra refuses: the misspelt word if there is one, else the error's own."""
    overrides = []
    for word in argv:
        if not word.startswith("-"):
            try:
                overrides.append(OverridesParser.create().parse_override(word))
            except HydraException:
                if "=" not in word and word[0] != "~":
                    tree = compose_groups([], config_name, config_dir) if Path(word).exists() else None
                    takes_run = tree is not None and "checkpoint" in setting_names(tree)
                    cure = f"; type checkpoint={word}" if takes_run else ""
                    return f"cannot read {word!r} on the command line: a setting is name=value, without spaces{cure}"
                if any(word.count(opened) != word.count(closed) for opened, closed in ("[]", "{}")):
                    return f"{word}: a bracket is not closed; quote what has spaces, '{word.partition('=')[0]}=[a, b]'"
                name, _, value = word.partition("=")
                if name.strip() != name or value.strip() != value:
                    return f"{word}: there is a space beside =; type {name.strip()}={value.strip()}"
                return f"{word}: it cannot be read; a list is [1,2], a text with other signs \"{name}='{value}'\""
    groups = [override for override in overrides if override.key_or_group in schema.groups()]
    own_groups = program_groups(config_name, config_dir)
    for override in groups:
        if own_groups and override.key_or_group not in own_groups:
            return f"{override.input_line}: {config_name} has no such part; leave it out"
    messages = [misspelt_option(override) for override in groups]
    text = f"{error} {error.__cause__}"
    # OmegaConf takes any key within a list for a number.
    unknown = ("not in struct", "Could not override", "Could not delete", "invalid literal for int()")
    if not any(messages) and any(part in text for part in unknown):
        tree = compose_groups(groups, config_name, config_dir)
        settings = [override for override in overrides if override not in groups]
        keys = [(override.key_or_group, override.is_add()) for override in settings]
        plain = OmegaConf.to_container(tree, resolve=False) if tree is not None else None
        keys += [(key, False) for override in settings if not override.is_add() for key in inner_keys(override, plain)]
        messages = [misspelt_key(key, is_add, tree, own_groups) for key, is_add in keys if tree is not None]
    return next(filter(None, messages), None) or first_line(error)


def misspelt_option(override: Override) -> str | None:
    """The message for `group=option` where there is no such option."""
    group, known = override.key_or_group, schema.options(override.key_or_group)
    if override.is_delete() and override.value() is None:
        return None
    if override.is_sweep_override():
        chosen = [str(choice) for choice in override.sweep_string_iterator()]
    else:
        chosen = [str(override.get_value_element_as_str())]
    for option in chosen:
        if option not in known:
            return f"{group}={option}: there is no such option{did_you_mean(option, known)}"
    return None


def inner_keys(override: Override, tree: Any) -> Iterator[str]:
    """Yield the dotted keys of mappings in an override's value, as deep as the config has mappings there too."""

    def walk(value: Any, known: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict) and isinstance(known, dict):
            for key, inner in value.items():
                yield f"{path}.{key}"
                yield from walk(inner, known.get(key), f"{path}.{key}")

    for part in override.key_or_group.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    yield from walk(override.value(), tree, override.key_or_group)


def misspelt_key(key: str, is_add: bool, tree: DictConfig, own_groups: Collection[str]) -> str | None:
    """The message for `key=value` (or `+key`, `~key`) where there is no such key; `own_groups`: of the program."""
    known = setting_names(tree)
    parent, _, last = key.rpartition(".")
    if key in known or (is_add and parent in known) or key.startswith("hydra."):
        return None
    if key == "checkpoint" and "backbone" in known:
        uses = "model=, backbone= and head= choose a network; "
        if "receptive_field" in known:
            return f"checkpoint is not a setting; {uses}what summary shows does not depend on weights"
        return (
            f"checkpoint is not a setting; {uses}resume=<run> continues a run, init_from=<run> starts from its weights"
        )
    if parent in known and OmegaConf.select(tree, parent) == {}:
        return f"{key} is not a setting yet; add it with +{key}=..."
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    siblings = [name for name in siblings if name[0] != "_"] + ([] if parent else schema.groups())
    parts = [name for name in siblings if last in name.split("_")]
    if close := get_close_matches(last, siblings, n=1, cutoff=0.7) or parts:
        return f"{key} is not a setting; did you mean {f'{parent}.{close[0]}'.lstrip('.')}?"
    if parent == "trainer" and siblings:
        more = RESERVED.get(last, f"an argument of Lightning's Trainer is set with +trainer.lightning.{last}=...")
        return f"{key} is not a setting; {more}"
    group, _, rest = key.partition(".")
    has_group = rest and group in own_groups
    owners = [option for option in schema.options(group) if has_group and sets_key(group, option, rest)]
    if owners:
        return f"{key} is a setting of {' and '.join(f'{group}={option}' for option in owners)}; choose it too"
    if parent and siblings and all(name.rpartition(".")[2] != last for name in known):
        return f"{key} is not a setting; there is {', '.join(siblings)}"
    hints = [f"did you mean {name}?" for name in similar(key, known)] or ["`--cfg job` shows all of them"]
    return f"{key} is not a setting; {hints[0]}"


def similar(key: str, known: list[str]) -> list[str]:
    """Return the known settings that a mistyped one may mean: optimizer.lr for lr, trainer.max_epochs for epochs."""
    last = key.rpartition(".")[2]
    return [
        *(name for name in known if name.rpartition(".")[2] == last),
        *(name for name in known if last in name.rpartition(".")[2].split("_")),
        *get_close_matches(key, known, n=1, cutoff=0.7),
    ]


def closest_setting(key: str, config_name: str) -> str:
    """The setting or config group of a program that a word means, else the word itself."""
    tree = compose_groups([], config_name, schema.CONFIG_DIR)
    known = setting_names(tree) if tree is not None else []
    return key if key in (*known, *schema.groups()) else next(iter(similar(key, known)), key)


def program_groups(config_name: str, config_dir: Path) -> list[str]:
    tree = compose_groups([], config_name, config_dir, return_hydra_config=True)
    return [] if tree is None else [str(group) for group in tree.hydra.runtime.choices]


def compose_groups(
    groups: list[Override], config_name: str, config_dir: Path, return_hydra_config: bool = False
) -> DictConfig | None:
    """The config with the chosen groups but without any value of the command line; None where that fails too."""
    lines = [override.input_line or "" for override in groups if not override.is_sweep_override()]
    try:
        return compose(config_name, lines, config_dir, return_hydra_config)
    except (HydraException, OmegaConfBaseException):
        return None


def setting_names(tree: DictConfig) -> list[str]:
    """Every key of a config as the command line spells it, `transforms.train.0.p`."""
    plain = OmegaConf.to_container(tree, resolve=False)
    return [re.sub(r"\[(\d+)\]", r".\1", path) for path, _ in nodes(plain) if path]
