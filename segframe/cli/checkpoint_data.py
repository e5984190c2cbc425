"""What a checkpoint says of its data, offered to Hydra as the option `data: checkpoint`."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from segframe.cli.argv import given_path
from segframe.config.schema import DataConfig
from segframe.errors import UserError


def offer_data(argv: list[str]) -> None:
    """Reads `checkpoint=...` from the command line before anything is composed: `data.root=...` can then adjust it."""
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
    """A checkpoint's data node as far as it is believed: where the data lie, and which dataset reads them.

    Lists lie below its root unless the command line names them, and no more workers are started than this machine
    would have without a word.
    """
    from segframe.data.datamodule import count_workers
    from segframe.inference.build import list_files

    if not isinstance(data, dict):
        raise UserError("the checkpoint's data are no dictionary; choose others with data=...")
    node = {key: value for key, value in data.items() if key in DataConfig.__dataclass_fields__}
    workers = node.get("num_workers")
    if not isinstance(workers, int) or not 0 <= workers <= count_workers(None):
        node["num_workers"] = None
    root = os.path.abspath(str(node.get("root") or ""))
    for key, file in list_files(node.get("dataset")):
        given_too = any(word.startswith(".".join(key.split(".")[:3])) for word in argv)
        if not given_too and not Path(os.path.abspath(os.path.join(root, file))).is_relative_to(root):
            raise UserError(f"the checkpoint's data read {file}, which is not below data.root; repeat it: {key}={file}")
    return node
