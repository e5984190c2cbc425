"""What a checkpoint says of its data, offered to Hydra as the option `data: checkpoint`."""

import sys

from hydra.core.config_store import ConfigStore

from segframe.cli import given, interruptible
from segframe.config import DataConfig
from segframe.errors import UserError


def offer_data(argv: list[str]) -> None:
    """Reads `checkpoint=...` from the command line before anything is composed: `data.root=...` can then adjust it."""
    path = given("checkpoint", argv)
    node: dict[str, object] = {}
    if path is not None:
        try:
            with interruptible():
                from segframe import checkpoint

                about, _ = checkpoint.read_run(checkpoint.locate(path))
        except UserError as error:
            sys.exit(f"error: {error}")
        known = DataConfig.__dataclass_fields__
        node = {key: value for key, value in about.config.get("data", {}).items() if key in known}
    ConfigStore.instance().store(group="data", name="checkpoint", node=node)
