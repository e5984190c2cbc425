"""Access to the config that Hydra has composed for the running program, and composing of other configs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segframe.config import schema
from segframe.config.overrides import overrides_of, quoted
from segframe.config.resolvers import model_name


def output_folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def typed_overrides() -> list[str]:
    """The overrides that the program was started with; none outside a program."""
    return overrides_of(HydraConfig.get()) if HydraConfig.initialized() else []


def chosen_options() -> Mapping[str, str | None]:
    """The chosen option of each config group; none outside a program."""
    return HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}


def network_name() -> str:
    return model_name(HydraConfig.get())


def search_path() -> list[str]:
    """The override of hydra.searchpath for the user's own config folder as a list; empty if there is no such folder."""
    return [f"hydra.searchpath=[{quoted(f'file://{folder.resolve()}')}]" for folder in schema.own_folders()]


def compose(
    name: str,
    overrides: Sequence[str] = (),
    config_dir: Path = schema.CONFIG_DIR,
    return_hydra_config: bool = False,
) -> DictConfig:
    """Compose a program's config, with the user's own configs; a program that Hydra runs goes on unchanged.

    Errors are Hydra's and OmegaConf's.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
            return hydra.compose(name, [*overrides, *search_path()], return_hydra_config)
    finally:
        GlobalHydra.instance().hydra = running


def config_dir_flags() -> list[str]:
    """`--config-dir=<folder>` for the user's own configs as a list; empty if it is ./configs, which is the default."""
    is_found = Path("configs").resolve()
    return [f"--config-dir={folder}" for folder in schema.own_folders() if folder.resolve() != is_found]


def train_command() -> str:
    """`python train.py` if this program is one of scripts/, else `segframe train`; for commands that are printed."""
    is_script = Path(sys.argv[0]).resolve().parent == schema.CONFIG_DIR.with_name("scripts")
    return "python train.py" if is_script else "segframe train"
