"""The schema of a run's config, the check of every `_target_`'s arguments, and the names of a run's folders."""

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from itertools import count
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, Union

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from segframe.errors import UserError

CONFIG_DIR = Path(__file__).parents[1] / "configs"


@dataclass
class DataConfig:
    """Which dataset, and how it is loaded; what suits its images (weights, crop_size) is stated beside it."""

    dataset: Any = MISSING
    root: str | None = MISSING
    download: bool = False
    train_split: str = MISSING
    val_split: str = MISSING
    batch_size: int = MISSING
    num_workers: int | None = None
    weights: str | None = None
    crop_size: Any = MISSING


@dataclass
class TrainerConfig:
    """How long and how training runs; build.py turns it into a Lightning Trainer."""

    max_epochs: int = MISSING
    max_steps: int | None = None
    val_every_n_epochs: float = MISSING
    val_every_n_steps: int | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    precision: str = MISSING
    accelerator: str = MISSING
    lightning: dict[str, Any] = field(default_factory=dict)


@dataclass
class NormalizeConfig:
    """What is taken from and divides the pixels (0 ... 255), per channel RGB; `bgr` then reverses the channels."""

    mean: list[float] = MISSING
    std: list[float] = MISSING
    bgr: bool = MISSING


@dataclass
class BatchNormConfig:
    """How batch norm's statistics are kept; momentum is the share of a batch in the running ones."""

    frozen: str | None = None
    backbone_momentum: float = MISSING
    head_momentum: float = MISSING


@dataclass
class ParamGroupsConfig:
    """What the optimizer's groups differ in, beside each part's own lr_multiplier."""

    bias_lr_multiplier: float = MISSING
    decay_bias: bool = MISSING
    decay_norm: bool = MISSING
    decay_depthwise: bool = MISSING


@dataclass
class TrainConfig:
    """The root of a run's config; groups whose parts bring their own arguments are checked by `check_targets`."""

    backbone: Any = MISSING
    head: Any = MISSING
    aux_head: Any = None
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    input_scales: list[float] = field(default_factory=list)
    loss: Any = MISSING
    output_weights: dict[str, float] = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    transforms: Any = MISSING
    optimizer: Any = MISSING
    param_groups: ParamGroupsConfig = field(default_factory=ParamGroupsConfig)
    scheduler: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: Any = MISSING
    logger: Any = MISSING
    seed: int = MISSING
    monitor: str = MISSING
    monitor_mode: str = MISSING
    output_dir: str | None = None
    resume: str | None = None
    init_from: str | None = None


@dataclass
class EffectiveFieldConfig:
    """What the effective receptive field is measured on: so many square images of noise of so many pixels' side."""

    size: int = MISSING
    num_images: int = MISSING


@dataclass
class SummaryConfig(TrainConfig):
    """The root of scripts/summary.py's config: a run's, and what is measured."""

    num_classes: int | None = None
    size: Any = MISSING
    receptive_field: bool = MISSING
    effective_field: EffectiveFieldConfig = field(default_factory=EffectiveFieldConfig)


@dataclass
class EvaluateConfig:
    """The root of scripts/evaluate.py's config."""

    checkpoint: str = MISSING
    split: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    output_stride: int | None = None
    inference: Any = MISSING
    postprocess: Any = None
    accelerator: str = MISSING
    output_dir: str | None = None


@dataclass
class PredictConfig:
    """The root of scripts/predict.py's config."""

    checkpoint: str = MISSING
    input: str = MISSING
    output: str = MISSING
    alpha: float = MISSING
    heatmaps: Any = MISSING
    feature_maps: bool = MISSING
    feature_channels: int = MISSING
    output_stride: int | None = None
    inference: Any = MISSING
    postprocess: Any = None
    accelerator: str = MISSING


@dataclass
class UpsamplingConfig:
    """The root of scripts/upsampling.py's config."""

    steps: int = MISSING
    output_dir: str | None = None
    rows: dict[str, Any] = MISSING


def register() -> None:
    """Makes schemas and resolvers known to Hydra."""
    store = ConfigStore.instance()
    # A group, so that what builds on train.yaml can bring a wider schema.
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="summary", node=SummaryConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="upsampling_schema", node=UpsamplingConfig)
    for resolver in (run_dir, script_dir, sweep_dir, sweep_subdir, option_list):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def options(group: str) -> list[str]:
    """The files of a config group that users choose from; a leading underscore is for others to build on."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml") if path.stem[0] != "_")


def is_group(key: str) -> bool:
    """Whether configs/ has a folder of this name."""
    return (CONFIG_DIR / key).is_dir()


def option_list(*, _root_: DictConfig) -> str:
    """What --help shows of the config groups that a program's defaults list names."""
    groups = sorted(group for group in _root_.hydra.runtime.choices if is_group(group))
    indent = " " * 12
    return "\n".join(
        fill(f"{group:<11} {', '.join(options(group))}", 116, subsequent_indent=indent, break_on_hyphens=False)
        for group in groups
    )


def run_dir(*, _root_: DictConfig) -> str:
    """A run's folder: `output_dir`, or outputs/<date>/<time>_<model>_<data>."""
    if _root_.output_dir is not None:
        return str(_root_.output_dir)
    choices = _root_.hydra.runtime.choices
    return unused(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}_{model_name(_root_.hydra)}_{choices.data}")


def model_name(hydra: Any) -> str:
    """What a composed network is called: the preset, or backbone and head where either was chosen beside it."""
    choices = hydra.runtime.choices
    chosen = {override.partition("=")[0] for override in hydra.overrides.task}
    preset = choices.model if not chosen & {"backbone", "head"} else None
    return preset or f"{choices.backbone}_{choices.head}"


def unused(folder: str) -> str:
    """The folder, numbered where another run of the same second has it."""
    names = (f"{folder}_{k}" if k > 1 else folder for k in count(1))
    return next(name for name in names if not Path(name).exists())


def script_dir(*, _root_: DictConfig) -> str:
    """The folder of a script's results: `output_dir`, or outputs/<date>/<time>_<script>."""
    return str(_root_.output_dir or unused(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}_{_root_.hydra.job.name}"))


def sweep_dir(*, _root_: DictConfig) -> str:
    """A sweep's folder: `output_dir`, or outputs/<date>/<time>_sweep."""
    return str(_root_.output_dir or default_sweep_dir())


@cache
def default_sweep_dir() -> str:
    """Asked for by every job of a sweep, and the same for all."""
    return unused(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}_sweep")


def sweep_subdir(*, _root_: DictConfig) -> str:
    """A job's folder within its sweep: its number, and what is swept, in letters that need no quotes."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    swept = {o.key_or_group for o in OverridesParser.create().parse_overrides(words) if o.is_sweep_override()}
    told = [word for word in _root_.hydra.overrides.task if word.partition("=")[0] in swept]
    return re.sub(r"[^\w.+-]+", "-", f"{_root_.hydra.job.num}_{'_'.join(told)}")[:100].rstrip("-_")


def check_targets(config: DictConfig) -> None:
    """Rejects keys that a `_target_` takes no argument for, and plain values that its annotation excludes."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for path, node in walk(plain, ""):
        if "_target_" not in node:
            continue
        name = node["_target_"]
        try:
            parameters = inspect.signature(get_object(name)).parameters
        except Exception as error:
            raise UserError(f"{path}._target_={name}: {str(error).partition(chr(10))[0]}") from error
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key, value in node.items():
            if key in ("_target_", "_partial_", "_convert_", "_recursive_"):
                continue
            if key not in parameters:
                if not takes_any:
                    raise UserError(f"{path}.{key}: {name} takes no such argument{did_you_mean(key, parameters)}")
            elif not accepts(annotation(get_object(name), key), value):
                raise UserError(f"{path}.{key}={value}: {name} expects {spell(annotation(get_object(name), key))}")


def check_names(config: DictConfig) -> None:
    """Refuses a run folder's `_target_`s that neither configs/ nor our libraries' public classes have."""
    ours = {
        node["_target_"]
        for path in CONFIG_DIR.rglob("*.yaml")
        for _, node in walk(OmegaConf.to_container(OmegaConf.load(path)), "")
        if "_target_" in node
    }
    libraries = re.compile(r"(albumentations|torch\.optim|pytorch_lightning\.callbacks)\.[A-Z]\w+")
    for path, node in walk(OmegaConf.to_container(config), ""):
        name = node.get("_target_", "")
        if name and name not in ours and not libraries.fullmatch(name):
            raise UserError(
                f"{path}._target_={name}: this is no part that segframe knows, so it is not run on resuming"
            )


def walk(node: Any, path: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Every dict of nested containers, with its dotted path."""
    if isinstance(node, dict):
        yield path, node
        for key, child in node.items():
            yield from walk(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from walk(child, f"{path}[{index}]")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or what there is."""
    known = [name for name in known if name not in ("self", "features", "num_classes")]
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"


def annotation(target: Any, parameter: str) -> Any:
    """The type that a class's constructor or a function states for a parameter; Any where it cannot be told."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function).get(parameter, Any)
    except Exception:  # forward references that only a type checker sees
        return Any


def accepts(hint: Any, value: Any) -> bool:
    """Whether a plain value fits an annotation; dicts with `_target_` become objects and are not judged."""
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(accepts(member, value) for member in arguments)
    if origin is typing.Annotated:
        return accepts(arguments[0], value)
    if origin is Literal:
        return value in arguments
    if value is None:
        return hint in (None, type(None))
    kind = origin or hint
    if not inspect.isclass(kind):
        return True
    if isinstance(value, bool):
        return issubclass(bool, kind) if kind is not int else False
    if isinstance(value, int | float):
        return isinstance(value, kind) or (kind is float)
    if isinstance(value, str):
        return issubclass(str, kind) or issubclass(kind, Path)
    if isinstance(value, list):
        if not (issubclass(list, kind) or issubclass(kind, Sequence) or issubclass(kind, tuple)):
            return False
        members = [argument for argument in arguments if argument is not Ellipsis]
        if kind is tuple and len(members) == len(value) and Ellipsis not in arguments:
            return all(accepts(member, item) for member, item in zip(members, value, strict=True))
        return not members or all(any(accepts(member, item) for member in members) for item in value)
    if isinstance(value, dict):
        return issubclass(dict, kind) or issubclass(kind, Mapping)
    return True


def spell(hint: Any) -> str:
    """An annotation as a user reads it."""
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    return text.replace("typing.", "").replace("NoneType", "None").replace("None", "null")


def check_keys(config: DictConfig) -> None:
    """Rejects keys that the schema does not have, which `+key=value` lets through, and values of the wrong type."""
    for path, node in walk(OmegaConf.to_container(OmegaConf.structured(TrainConfig), throw_on_missing=False), ""):
        given = OmegaConf.select(config, path) if path else config
        if path == "trainer.lightning" or not OmegaConf.is_dict(given):
            continue
        for key in map(str, given):
            if key not in node and path != "output_weights":
                raise UserError(f"{f'{path}.{key}'.lstrip('.')} is not a setting{did_you_mean(key, node)}")
    OmegaConf.merge(OmegaConf.structured(TrainConfig), config)
