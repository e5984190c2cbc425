"""The config option `data=checkpoint`: the data that a checkpoint was trained on."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from segframe.cli.argv import given_path
from segframe.config.schema import DataConfig
from segframe.errors import UserError


def offer_data(argv: list[str]) -> None:
    """Register the data of `checkpoint=...` as an option, before the config is composed."""
    path = given_path("checkpoint", argv)
    node: dict[str, object] = {}
    if path is not None:
        try:
            from segframe.models.weights import checkpoint

            metadata, _ = checkpoint.load_run(checkpoint.find_checkpoint(path))
            if all(word == "data=checkpoint" or not word.startswith("data=") for word in argv):
                node = stored_data(metadata.config.get("data", {}), argv)
        except UserError as error:
            sys.exit(f"error: {error}")
    ConfigStore.instance().store(group="data", name="checkpoint", node=node)


def stored_data(data: Any, argv: list[str]) -> dict[str, object]:
    """A checkpoint's data node: root, dataset and loader settings.

    UserError where it reads lists outside of its root, unless the command line names them too. Another machine's number
    of workers becomes this one's default.
    """
    from segframe.data.datamodule import count_workers
    from segframe.inference.build import list_files

    if not isinstance(data, dict):
        raise UserError("the checkpoint describes no data; choose data with data=...")
    node = {key: value for key, value in data.items() if key in DataConfig.__dataclass_fields__}
    workers = node.get("num_workers")
    if not isinstance(workers, int) or not 0 <= workers <= count_workers(None):
        node["num_workers"] = None
    root = os.path.abspath(str(node.get("root") or ""))
    for key, file in list_files(node.get("dataset")):
        given_too = any(word.startswith(".".join(key.split(".")[:3])) for word in argv)
        if not given_too and not Path(os.path.abspath(os.path.join(root, file))).is_relative_to(root):
            raise UserError(
                f"{key}={file}: the checkpoint reads this list outside of data.root; repeat it if you trust it"
            )
    return node
