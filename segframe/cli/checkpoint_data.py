"""The config option `data=checkpoint`: the data that a checkpoint was trained on."""

import sys

from hydra.core.config_store import ConfigStore

from segframe.cli.argv import given_path
from segframe.config.schema import DataConfig
from segframe.errors import UserError


def offer_data(argv: list[str]) -> None:
    """Register the data of `checkpoint=...` as an option, before the config is composed.

    No more data loading workers are started than this machine's default.
    """
    path = given_path("checkpoint", argv)
    node: dict[str, object] = {}
    if path is not None:
        # These import torch, which --help does without.
        from segframe.data.datamodule import count_workers
        from segframe.models.weights import checkpoint

        try:
            metadata, _ = checkpoint.load_run(checkpoint.find_checkpoint(path))
        except UserError as error:
            sys.exit(f"error: {error}")
        data = metadata.config.get("data")
        if isinstance(data, dict) and all(word == "data=checkpoint" or not word.startswith("data=") for word in argv):
            node = {key: value for key, value in data.items() if key in DataConfig.__dataclass_fields__}
            if not isinstance(data.get("num_workers"), int) or data["num_workers"] > count_workers(None):
                node["num_workers"] = None
    ConfigStore.instance().store(group="data", name="checkpoint", node=node)
