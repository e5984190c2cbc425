"""Hydra's launchers, which run the jobs of a sweep."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

from segframe.config import schema
from segframe.config.validate import did_you_mean
from segframe.errors import UserError

LAUNCHERS = {
    "basic": ("hydra", ""),
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "sweeps"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "sweeps"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "sweeps"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "sweeps"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "ray_aws": ("hydra_plugins.hydra_ray_launcher", "ray"),
}
"""The package of each launcher, and the extra of segframe that installs it."""


def check_launcher(words: Sequence[str], sweeps: bool) -> None:
    """UserError where hydra/launcher=... is unknown, is not installed, or would do nothing without -m."""
    for word in words:
        group, _, name = word.partition("=")
        if group != "hydra/launcher":
            continue
        known = sorted({*LAUNCHERS, *schema.options(group)})
        if name not in known:
            raise UserError(f"{word}: there is no such option{did_you_mean(name, known)}")
        package, extra = LAUNCHERS.get(name, LAUNCHERS["basic"])
        if package != "hydra" and not (find_spec("hydra_plugins") and find_spec(package)):
            raise UserError(f"{word}: its package is not installed; pip install 'segframe[{extra}]'")
        if not sweeps:
            raise UserError(f"{word}: launchers run the jobs of a sweep; add -m")
        # configs/hydra/launcher/ray.yaml replaces the plugin's own option of this name, on purpose.
        warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/ray' is validated against")
