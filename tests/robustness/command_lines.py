"""Bad command lines, drawn from configs/: misspelt, of a wrong type, with unbalanced brackets."""

import random
from collections.abc import Iterator
from typing import Any

import yaml
from case import CHECK_DATA, CLASSES, EVALUATE, PREDICT, REPLAY, SUMMARY, Case, typo
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segframe.cli.error_messages import setting_names
from segframe.config import schema as schema

PROGRAMS: dict[str, tuple[str, ...]] = {
    "train": ("train.py", "output_dir=out"),
    "evaluate": EVALUATE,
    "predict": PREDICT,
    "check_data": CHECK_DATA,
    "replay": REPLAY,
    "summary": SUMMARY,
}
CHOICES = {
    "train": (
        (),
        ("data=folder", CLASSES, "data.root=photos", "aux_head=fcn", "optimizer=adamw", "head=deeplabv3"),
        ("head=fcn8s", "backbone=vgg16", "scheduler=step", "optimizer=rmsprop", "loss=cross_entropy_dice"),
    ),
    "predict": (("inference=sliding_window",), ("inference=tta", "postprocess=dense_crf")),
    "check_data": (CHECK_DATA[1:4],),
    "replay": ((),),
}
"""Programs, and choices of options that bring further settings."""
OPEN = (
    *("output_weights", "trainer.lightning", "data.dataset.num_images", "label_map", "transforms", "callbacks"),
    *("inference.scales", "rows"),
)
"""Settings below which any key may stand."""
SEVERAL_TYPES = (
    "_target_",
    "_partial_",
    "fused",
    "compile",
    "heatmaps",
    "checkpoint_every",
    "data.root",
    "crop_size",
    "frozen",
)
PATHS = ("output_dir", "resume", "init_from", "data.root", "data.cache_dir")
"""Settings whose values may have any characters."""
LONG = "long" * 750
WRONG = {bool: ("maybe", "[true]"), int: (LONG, "{a: 1}"), float: ("abc", "[1.5]"), list: (LONG, "{a: 1}")}
"""Values of a wrong type, by the type of the default."""


def composed(program: str, *words: str) -> Any:
    """A program's config as plain containers, unresolved."""
    with initialize_config_dir(str(schema.CONFIG_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose(program, list(words)), resolve=False)


def settings() -> Iterator[tuple[str, tuple[str, ...], str, Any]]:
    """The settings of all programs: program, choices, dotted name and default."""
    for program, choices in CHOICES.items():
        for words in choices:
            tree = composed(program, *words)
            for key in sorted(set(setting_names(OmegaConf.create(tree)))):
                last = key.rpartition(".")[2]
                if not last.isdigit() and last[0] != "_" and not key.startswith(OPEN):
                    yield program, words, key, OmegaConf.select(OmegaConf.create(tree), key, throw_on_missing=False)


def options(rng: random.Random) -> Iterator[Case]:
    """Misspelt options and groups."""
    for program, words in PROGRAMS.items():
        lines = yaml.safe_load((schema.CONFIG_DIR / f"{program}.yaml").read_text())["defaults"]
        groups = [key for line in lines if isinstance(line, dict) for key in line if key in schema.groups()]
        for group in groups:
            known = {path.stem for path in (schema.CONFIG_DIR / group).glob("*.yaml")} | {"checkpoint", "null"}
            for option in schema.options(group):
                wrong = typo(option, rng, known)
                yield Case(f"{program}: {group}={wrong}", (*words, f"{group}={wrong}"), wrong)
            wrong = typo(group, rng, {*schema.groups(), *composed("train")})
            yield Case(f"{program}: {wrong}=...", (*words, f"{wrong}={schema.options(group)[0]}"), wrong)


def keys(rng: random.Random) -> Iterator[Case]:
    """Misspelt settings that are set, added or removed."""
    found = list(settings())
    names = {key.rpartition(".")[2] for _, _, key, _ in found}
    for program, more, key, _ in found:
        parent, _, last = key.rpartition(".")
        wrong = f"{parent}.{typo(last, rng, names)}".strip(".")
        word = rng.choice((f"{wrong}=1", f"{wrong}=1", f"+{wrong}=1", f"~{wrong}"))
        yield Case(f"{program}: {word}", (*PROGRAMS[program], *more, word), wrong.replace(".", r"\."))


def types(rng: random.Random) -> Iterator[Case]:
    """Values of a wrong type, with unbalanced brackets, or that refer to an unknown setting."""
    for program, more, key, default in settings():
        last = key.rpartition(".")[2]
        for value in WRONG.get(type(default), ()) if not key.endswith(SEVERAL_TYPES) else ():
            words = (*PROGRAMS[program], *more, f"{key}={value}")
            yield Case(f"{program}: {key}={value[:20]}", words, last.replace("_", "[_ ]"))
        value = rng.choice(("[1,2", "{a: 1", "(1", "'abc", "${nowhere}", "${oc.nowhere:x}", "${a.b"))
        if program == "train" and not more and not key.endswith(PATHS):
            yield Case(f"train: {key}={value}", (*PROGRAMS["train"], f"{key}={value}"), rf"nowhere|{last}|a\.b")
