"""The config option `data=checkpoint`: the data that a checkpoint was trained on."""

import sys

from hydra.core.config_store import ConfigStore

from segframe.cli.argv import given_path
from segframe.config.schema import DataConfig
from segframe.errors import UserError


def offer_data(argv: list[str]) -> None:
    """Register the data of `checkpoint=...` as an option, before the config is composed.

    The number of workers is this machine's default, not that of the machine that trained.
    """
    path = given_path("checkpoint", argv)
    node: dict[str, object] = {}
    if path is not None:
        from segframe.models.weights import checkpoint  # imports torch, which --help does without

        try:
            metadata, _ = checkpoint.load_run(checkpoint.find_checkpoint(path))
        except UserError as error:
            sys.exit(f"error: {error}")
        data = metadata.config.get("data")
        if isinstance(data, dict) and all(word == "data=checkpoint" or not word.startswith("data=") for word in argv):
            node = {key: value for key, value in data.items() if key in DataConfig.__dataclass_fields__}
            node["num_workers"] = None
    ConfigStore.instance().store(group="data", name="checkpoint", node=node)
