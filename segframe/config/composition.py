"""What Hydra has composed for the running program, and other configs composed beside it."""

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
    """The folder of the program's results, which Hydra has made."""
    return Path(HydraConfig.get().runtime.output_dir)


def typed_overrides() -> list[str]:
    """The overrides that the program was started with; none outside a program."""
    return overrides_of(HydraConfig.get()) if HydraConfig.initialized() else []


def chosen_options() -> Mapping[str, str | None]:
    """The chosen option of each config group; none outside a program."""
    return HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}


def network_name() -> str:
    """The name of the program's network: its preset, or backbone and head where either was chosen beside it."""
    return model_name(HydraConfig.get())


def search_path() -> list[str]:
    """The override of hydra.searchpath that adds the user's own configs; none where there are none."""
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
    """The flag for the folder of the user's own configs; none where it is ./configs, which is found without."""
    is_found = Path("configs").resolve()
    return [f"--config-dir={folder}" for folder in schema.own_folders() if folder.resolve() != is_found]


def train_command() -> str:
    """The beginning of a command that trains, as this program was started: by a checkout's script, or by `segframe`."""
    is_script = Path(sys.argv[0]).resolve().parent == schema.CONFIG_DIR.with_name("scripts")
    return "python train.py" if is_script else "segframe train"
