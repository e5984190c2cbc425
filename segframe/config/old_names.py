"""Public names of parts by the names that checkpoints and config.yaml files of older versions hold."""

import re
from typing import Any

PACKAGES = {
    **{name: f"segframe.models.{name}" for name in ("backbones", "heads", "losses")},
    **{name: f"segframe.{name}" for name in ("data", "inference")},
    **dict.fromkeys(("loggers", "schedulers"), "segframe.training"),
    "callbacks": "segframe.training.callbacks",
    "sweep": "segframe.cli",
}
"""Packages of older versions, which named parts by their files, and the packages that export the same parts today."""
CLASSES = {
    **{"Timm": "TimmBackbone", "SummedScores": "DeepLabV2", "OnCoarseGrid": "CoarseLabels", "Combined": "WeightedSum"},
    **{"Curves": "TrainingCurves", "LoaderReport": "DataloaderReport", "Whole": "WholeImage", "CSV": "CSVLogger"},
    **{name: f"{name}_lr" for name in ("constant", "cosine", "poly", "step")},
}
"""Classes and functions that were renamed."""


def current_name(target: str) -> str:
    """Today's name of a part; other names stay as they are."""
    old = re.fullmatch(r"segframe\.(\w+)\.(?:\w+\.)?(\w+)", target)
    if old is None or old[1] not in PACKAGES:
        return target
    return f"{PACKAGES[old[1]]}.{CLASSES.get(old[2], old[2])}"


def rename_targets(node: Any) -> Any:
    """The same plain containers, with each old `_target_` replaced by today's name."""
    if isinstance(node, dict):
        renamed = {key: rename_targets(child) for key, child in node.items()}
        if isinstance(target := renamed.get("_target_"), str):
            renamed["_target_"] = current_name(target)
        return renamed
    return [rename_targets(child) for child in node] if isinstance(node, list) else node
