"""Validation of a composed config before anything is built: keys, arguments of every `_target_`, types, limits."""

import inspect
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.config.argument_types import accepts, annotation, describe_type, entries
from segframe.config.composition import chosen_options, typed_overrides
from segframe.config.limits import check_limits
from segframe.config.old_names import current_name
from segframe.config.overrides import key_of
from segframe.config.run_schema import TrainConfig
from segframe.config.schema import yaml_files
from segframe.config.targets import import_target
from segframe.errors import UserError

PARTS = (
    *("backbone", "head", "normalize", "batch_norm", "loss", "data", "data.dataset", "transforms", "inference"),
    *("optimizer", "param_groups", "scheduler", "trainer", "trainer.lightning", "callbacks", "logger"),
    "output_weights",
)

RESERVED = {
    **{name: f"trainer.{name}=..." for name in ("precision", "accelerator", "max_epochs", "max_steps")},
    **{name: f"trainer.{name}=..." for name in ("accumulate_grad_batches", "gradient_clip_val")},
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), "trainer.val_every_n_steps=..."),
    "limit_train_batches": "trainer.max_steps=... makes a run shorter",
    **dict.fromkeys(("min_epochs", "min_steps"), "trainer.max_steps=... is the length of a run"),
    "overfit_batches": "experiment=overfit learns a few images by heart",
    **{name: f"trainer.{name}=..." for name in ("devices", "num_nodes")},
    "sync_batchnorm": "trainer.sync_batch_norm=...",
    **dict.fromkeys(("strategy", "use_distributed_sampler"), "trainer.devices=... trains by DistributedDataParallel"),
    **{name: f"see configs/{name}" for name in ("callbacks", "logger")},
    "default_root_dir": "output_dir=...",
    "fast_dev_run": "trainer=smoke is a short run",
    **dict.fromkeys(("plugins", "num_sanity_val_steps", "log_every_n_steps"), "it is always the same"),
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), "see callbacks.progress"),
}
"""Arguments of Lightning's Trainer that trainer.lightning cannot set, and what sets them."""


def validate_config(config: DictConfig, resumes: bool = False) -> None:
    """Validate a run's composed config before anything is built; a resumed run's is brought up to date first."""
    check_parts(config)
    if resumes:
        upgrade(config)
    check_keys(config)
    check_callbacks_and_loggers(config)
    check_targets(config)
    check_lightning_arguments(config.trainer.lightning)
    check_typed_lengths(config)
    check_checkpoints(config.callbacks)
    if not resumes:
        check_needs(config)
    make_dataset = get_object(config.data.dataset._target_)
    if config.data.root is None and not accepts(annotation(make_dataset, "root"), None):
        raise UserError("data.root must be given: data.root=..., the folder of the data")
    if config.transforms.train is None:
        raise UserError("transforms.train=null: it must be a list; [] trains on the images as they are")


def check_typed_lengths(config: DictConfig) -> None:
    """UserError if a length in epochs is typed while one in steps, which takes precedence, is set."""
    words = {key_of(word): word for word in typed_overrides()}
    for epochs in ("max_epochs", "val_every_n_epochs"):
        steps = epochs.replace("epochs", "steps")
        value = config.trainer[steps]
        word = words.get(f"trainer.{epochs}", "=null")
        if not word.endswith("=null") and f"trainer.{steps}" not in words and value is not None:
            raise UserError(f"{word}: trainer.{steps}={value} takes precedence; type trainer.{steps}=null too")


def check_parts(config: DictConfig) -> None:
    """UserError where a part of the config is a plain value instead of a mapping."""
    for part in PARTS:
        node = OmegaConf.select(config, part, default={})
        if node is None and part in ("data", "data.dataset", "transforms"):
            raise UserError(f"{part}=null: a run needs it; choose an option of configs/{part.partition('.')[0]}")
        if node is not None and not OmegaConf.is_dict(node) and node != {}:
            raise UserError(f"{part}={node}: a mapping of settings is expected; choose an option of configs/")


def check_targets(config: DictConfig, without: Sequence[str] = ()) -> None:
    """UserError for keys that are no arguments of their `_target_`, and for values that do not fit its annotations.

    `without`: keys of the root that are skipped because they may be incomplete.
    """
    plain = {
        str(key): OmegaConf.to_container(config[key], resolve=True)
        for key in config
        if key not in without and OmegaConf.is_config(config[key])
    }
    for path, node in walk(plain, ""):
        if "_target_" not in node:
            continue
        name = node["_target_"]
        target = import_target(path, name)
        try:
            parameters = inspect.signature(target).parameters
        except Exception as error:
            raise UserError(f"{path}._target_={name}: {' '.join(str(error).split())}") from error
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key, value in node.items():
            if key in ("_target_", "_partial_", "_convert_", "_recursive_") or f"{path}.{key}" == "backbone.frozen":
                continue  # backbone.frozen is a setting of build_segmenter, for every backbone
            if key not in parameters:
                if not takes_any:
                    raise UserError(unknown_argument(f"{path}.{key}", name, parameters))
                continue
            for setting, kind, part in entries(f"{path}.{key}", annotation(target, key), value):
                if not accepts(kind, part):
                    quotes = " without quotes" if isinstance(part, str) and re.fullmatch(r"[\d.e-]+", part) else ""
                    expected, source = describe_type(kind), find_source(config, setting)
                    example = re.search(r"\{name: \S+\}", expected)
                    typed = f"; type '{source}={example[0]}'" if example else ""
                    raise UserError(f"{source}={part}: {name} expects {expected}{quotes}{typed}")


def unknown_argument(path: str, target: str, known: Iterable[str]) -> str:
    """The message for a key that is no argument of its `_target_`, with the preset that sets it, if one does."""
    advice = cure_of_preset(path) or did_you_mean(path.rpartition(".")[2], known)
    return f"{path}: {target} has no such argument{advice}"


def cure_of_preset(path: str) -> str:
    """Return the end of a message: which experiment or model sets a key, and how to remove it; "" if none does."""
    for group in ("experiment", "model"):
        option = chosen_options().get(group)
        if option and sets_key(group, option, path):
            return f"; {group}={option} sets it, and ~{path} removes it"
    return ""


def sets_key(group: str, option: str, path: str) -> bool:
    """Whether the file of an option, or one that it starts from, has a key."""
    for file in (file for file in yaml_files() if (file.parent.name, file.stem) == (group, option)):
        content = OmegaConf.to_container(OmegaConf.load(file))
        keys = dict(nodes(content))
        if path in keys or any(sets_key(group, base, path) for base in keys.get("defaults", []) if base != "_self_"):
            return True
    return False


def check_callbacks_and_loggers(config: DictConfig) -> None:
    """Raise UserError if a callback or logger is no mapping with a `_target_`, nor null, which removes it.

    An experiment may set its arguments while the command line chooses another option, in which it does not exist.
    """
    for group in ("callbacks", "logger"):
        for name, node in (config[group] or {}).items():
            path = f"{group}.{name!s}"
            if node is not None and not OmegaConf.is_dict(node):
                raise UserError(f"{path}={node}: a mapping is expected; type '+{path}={{_target_: <its class>}}'")
            if node is not None and "_target_" not in node:
                cure = cure_of_preset(path) or f"; give it one, or remove it with ~{path}"
                raise UserError(f"{path}: it has no _target_ with this option of {group}{cure}")


def find_source(config: DictConfig, path: str) -> str:
    """Return the setting that `path` refers to by an interpolation (`${...}`), or `path` itself if it has none."""
    parent, _, key = path.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index, call-overload]
    reference = re.fullmatch(r"\$\{([a-z]\w*(?:\.\w+)*)\}", raw) if isinstance(raw, str) else None
    return find_source(config, reference[1]) if reference else path


def nodes(node: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Nested containers and every value in them, with dotted paths."""
    yield path, node
    if isinstance(node, dict):
        for key, child in node.items():
            yield from nodes(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from nodes(child, f"{path}[{index}]")


def walk(node: Any, path: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Every dict of nested containers, with its dotted path."""
    return ((name, child) for name, child in nodes(node, path) if isinstance(child, dict))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean x?`, or the list of what is known."""
    names = {name.lower(): name for name in known if name not in ("self", "features", "num_classes")}
    close = get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[close[0]]}?" if close else f"; there is {', '.join(names.values())}"


def check_numbers(config: DictConfig) -> None:
    """UserError for NaN, infinite numbers and integers beyond 64 bits."""
    for path, value in nodes(OmegaConf.to_container(config)):
        if (isinstance(value, float) and not isfinite(value)) or (isinstance(value, int) and abs(value) >= 2**63):
            raise UserError(f"{path}={value}: it must be a finite number")


def upgrade(config: DictConfig) -> None:
    """Add the settings that the config of an older run lacks, with the schema's defaults, and rename its parts."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(TrainConfig)), ""):
        for key, value in node.items():
            name = f"{path}.{key}".lstrip(".")
            if value != MISSING and OmegaConf.select(config, name, default=MISSING) == MISSING:
                OmegaConf.update(config, name, value, force_add=True)
    for path, node in walk(OmegaConf.to_container(config), ""):
        if "_target_" in node:
            OmegaConf.update(config, f"{path}._target_", current_name(node["_target_"]))


def check_needs(config: DictConfig) -> None:
    """UserError where a recipe lacks a setting that it needs; init_from may replace backbone.weights."""
    for key in config.needs:
        if OmegaConf.select(config, key) is None and not (key == "backbone.weights" and config.init_from):
            raise UserError(f"{key} must be given: {explain_need(key)}; needs=[] runs it without")


def explain_need(key: str) -> str:
    """A recipe's description and an example of a setting that it needs, from the comment at the top of its file."""
    option = chosen_options().get("experiment")
    for file in (file for file in yaml_files() if (file.parent.name, file.stem) == ("experiment", option)):
        lines = file.read_text(encoding="utf-8").splitlines()
        comment = [line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line]
        if example := re.search(rf"{re.escape(key)}=(<[^>]*>|\S+)", "\n".join(comment)):
            return f"experiment={option} is {comment[0].rstrip('.')}; type {example[0]}, for example"
    return "this recipe needs it, see its file in configs/experiment"


def check_keys(config: DictConfig, schema: type = TrainConfig) -> None:
    """UserError for unknown keys (`+key=value` adds them), and for values of the wrong type or outside their limits."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(schema), throw_on_missing=False), ""):
        given = OmegaConf.select(config, path) if path else config
        if path == "trainer.lightning" or not OmegaConf.is_dict(given):
            continue
        for key in map(str, given):
            if key not in node and path != "output_weights":
                raise UserError(f"{f'{path}.{key}'.lstrip('.')} is not a setting{did_you_mean(key, node)}")
    typed = OmegaConf.merge(OmegaConf.structured(schema), config)
    assert isinstance(typed, DictConfig)
    check_numbers(config)
    check_limits(typed)


def check_lightning_arguments(arguments: DictConfig) -> None:
    """UserError for what trainer.lightning cannot pass on to Lightning's Trainer."""
    trainer = get_object("pytorch_lightning.Trainer")
    known = inspect.signature(trainer.__init__).parameters
    for name, value in ((str(name), value) for name, value in arguments.items()):
        setting = f"trainer.lightning.{name}={value}"
        if name not in known:
            raise UserError(f"{setting}: Lightning's Trainer has no such argument{did_you_mean(name, known)}")
        if name == "limit_val_batches" and not value:
            raise UserError(f"{setting}: no checkpoint is written without a validation; set trainer.val_every_n_epochs")
        if name in RESERVED:
            raise UserError(f"{setting}: segframe sets it; {RESERVED[name]}")
        if not accepts(annotation(trainer, name), value):
            raise UserError(f"{setting}: it must be {describe_type(annotation(trainer, name))}")
        if name == "limit_val_batches" and not (0 < value <= 1 or (isinstance(value, int) and value > 0)):
            raise UserError(f"{setting}: it must be a number of images of each device, or a share of them up to 1.0")


def check_checkpoints(callbacks: DictConfig) -> None:
    """UserError where several best checkpoints would have one file name: the last of them would count as the best."""
    for name, node in callbacks.items():
        if not OmegaConf.is_dict(node) or node.get("enable_version_counter", True) or not node.get("filename"):
            continue
        count = node.get("save_top_k", 1)
        if count != 1 and "{" not in node.filename:
            raise UserError(
                f"callbacks.{name!s}.save_top_k={count}: the file name {node.filename}.ckpt allows one; add a callback "
                "whose filename contains {step}"
            )
