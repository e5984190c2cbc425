"""segframe: training of semantic segmentation models, composed from parts by Hydra."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segframe.cli.api import check_data, compare, evaluate, network, plan, train
    from segframe.errors import UserError
    from segframe.inference.model import load

# Threads of PyTorch's OpenMP that spin for long while they wait slow a busy machine (loader workers, a second training)
# down by an order of magnitude; spinning briefly costs an idle one nothing measurable. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"

IGNORE_INDEX = 255
"""The mask value that losses and metrics ignore; each dataset maps its void to it."""

__all__ = [
    "IGNORE_INDEX",
    "UserError",
    "__version__",
    "check_data",
    "compare",
    "evaluate",
    "load",
    "network",
    "plan",
    "train",
]

_LAZY = {
    "load": "segframe.inference.model",
    "train": "segframe.cli.api",
    "evaluate": "segframe.cli.api",
    "check_data": "segframe.cli.api",
    "compare": "segframe.cli.api",
    "network": "segframe.cli.api",
    "plan": "segframe.cli.api",
    "UserError": "segframe.errors",
}
"""Public names and the modules that define them, imported on first use: `import segframe` does not load torch."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
