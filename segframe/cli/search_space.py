"""The space of a search: which of the trials' settings are fixed, and from which ranges the others are drawn."""

from decimal import Decimal
from difflib import get_close_matches
from math import ceil
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from segframe.cli.argv import quote_paths
from segframe.cli.error_messages import explain
from segframe.cli.search_argv import PROGRAM_SETTINGS
from segframe.config import schema
from segframe.config.composition import compose
from segframe.config.validate import validate_config
from segframe.errors import UserError, error_context
from segframe.inference.metrics import best_mode


class Space(NamedTuple):
    """The settings of all trials."""

    fixed: list[str]
    """Words that all trials share."""
    ranges: dict[str, BaseDistribution]
    """Choices are texts, as on a command line."""
    words: list[str]
    """All words as they were given, which identify the search."""


def read_space(file: Any, words: list[str]) -> Space:
    """The space of `search=<file>` and the command line, which overrides it; UserError if nothing varies."""
    words = [*file_words(file, ""), *words]
    parsed = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise UserError(
                f"{word}: it cannot be read; several values are a,b or choice(a,b), ranges are range(1,8,3), "
                "interval(0.1,1), tag(log,interval(1e-4,1)) and int(interval(1,9)), options glob(resnet*)"
            ) from error
        parsed[override.get_key_element()] = override
    swept = {key: override for key, override in parsed.items() if override.is_sweep_override()}
    if not swept:
        raise UserError(
            "nothing to search: give a setting several values, backbone=resnet18,resnet50, or a range, "
            "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    if swept.keys() & {"monitor", "monitor_mode"}:
        raise UserError("monitor: all trials are compared by it; give one value")
    fixed = [str(override.input_line) for key, override in parsed.items() if key not in swept]
    return Space(fixed, {key: distribution(override) for key, override in swept.items()}, sorted(words))


def file_words(node: Any, key: str) -> list[str]:
    """The words that a file of configs/search stands for: a text is Hydra's grammar, a list is a choice."""
    if isinstance(node, dict):
        return [word for name, child in node.items() for word in file_words(child, f"{key}.{name}".lstrip("."))]
    if node is None:
        return [f"{key}=null"] if key else []
    choices = ["null" if choice is None else str(choice) for choice in node] if isinstance(node, list) else [str(node)]
    return [f"{key}={','.join(choices)}"]


def distribution(override: Override) -> BaseDistribution:
    value = override.value()
    with error_context(str(override.input_line)):
        if isinstance(value, IntervalSweep):
            whole = isinstance(value.start, int) and isinstance(value.end, int)
            kind = IntDistribution if whole else FloatDistribution
            return kind(value.start, value.end, log="log" in value.tags)  # type: ignore[arg-type]
        if isinstance(value, RangeSweep):
            return range_distribution(value)
        if isinstance(value, Glob):
            choices = value.filter(schema.options(override.key_or_group))
        else:
            choices = list(dict.fromkeys(str(choice) for choice in override.sweep_string_iterator()))
        if not choices:
            raise ValueError("there is no such option")
        return CategoricalDistribution(choices)


def range_distribution(value: RangeSweep) -> BaseDistribution:
    """The distribution of range(start, stop, step), without `stop` as in Hydra's sweeps."""
    first, step, log = Decimal(str(value.start)), Decimal(str(value.step)), "log" in value.tags
    # Not value.range(), which adds up floats, so that it may contain `stop`.
    count = ceil((Decimal(str(value.stop)) - first) / step) if step else 0
    if count < 1:
        raise ValueError("the range is empty")
    low, high = sorted((first, first + step * (count - 1)))
    if all(isinstance(number, int) for number in (value.start, value.stop, value.step)):
        return IntDistribution(int(low), int(high), log=log, step=int(abs(step)))
    if log:
        raise ValueError("a range of decimals has no logarithmic scale; give interval(...) or single values")
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def suggest(trial: Trial, ranges: dict[str, BaseDistribution]) -> None:
    """Draw the settings that a trial does not have yet."""
    for key, kind in ranges.items():
        if isinstance(kind, IntDistribution):
            trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
        elif isinstance(kind, FloatDistribution):
            trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)
        elif isinstance(kind, CategoricalDistribution):
            trial.suggest_categorical(key, kind.choices)


def grid_values(ranges: dict[str, BaseDistribution]) -> dict[str, list[Any]]:
    """All values of each setting; UserError for intervals."""
    values: dict[str, list[Any]] = {}
    for key, kind in ranges.items():
        if isinstance(kind, CategoricalDistribution):
            values[key] = list(kind.choices)
        elif isinstance(kind, IntDistribution):
            values[key] = list(range(kind.low, kind.high + 1, kind.step))
        elif isinstance(kind, FloatDistribution) and kind.step is not None:
            count = round((kind.high - kind.low) / kind.step) + 1
            values[key] = [float(Decimal(str(kind.low)) + Decimal(str(kind.step)) * k) for k in range(count)]
        else:
            raise UserError(f"sampler=grid: {key} is an interval; give single values, a,b,c, or range(start,stop,step)")
    return values


def ends(kind: BaseDistribution) -> list[Any]:
    """The choices of a setting, or the ends of its range."""
    if isinstance(kind, CategoricalDistribution):
        return list(kind.choices)
    assert isinstance(kind, IntDistribution | FloatDistribution)
    return [kind.low, kind.high]


def setting_words(params: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


class TrialFacts(NamedTuple):
    """The settings of the trials' config that the study depends on."""

    monitor: str
    mode: str
    """The better end of the monitored metric, `min` or `max`."""
    devices: int | str
    """trainer.devices of a trial."""


def check_space(space: Space) -> TrialFacts:
    """Compose and validate the trials' config with every choice, and both ends of every range, once."""
    first = {key: ends(kind)[0] for key, kind in space.ranges.items()}
    samples = [first, *({**first, key: value} for key, kind in space.ranges.items() for value in ends(kind)[1:])]
    configs = [compose_trial([*space.fixed, *setting_words(sample)]) for sample in samples]
    monitor = str(configs[0].monitor)
    return TrialFacts(monitor, best_mode(monitor), configs[0].trainer.devices)


def compose_trial(words: list[str]) -> DictConfig:
    """A trial's validated config; UserError where it cannot be composed."""
    of_search = HydraConfig.instance().cfg
    try:
        config = compose("train", quote_paths(words), return_hydra_config=True)
        HydraConfig.instance().set_config(config)  # messages name the trial's presets
        with open_dict(config):
            del config.hydra
        config.output_dir = "outputs"  # callbacks and loggers refer to it
        validate_config(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(with_own_names(explain(error, words, "train"))) from error
    finally:
        HydraConfig.instance().cfg = of_search
    return config


def with_own_names(message: str) -> str:
    """The message for an unknown setting, which may be a misspelt one of the search itself."""
    key, unknown, _ = message.partition(" is not a setting; ")
    close = get_close_matches(key, PROGRAM_SETTINGS, n=1, cutoff=0.7) if unknown else []
    return f"{key} is not a setting; did you mean {close[0]}?" if close else message
