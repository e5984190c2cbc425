"""MLflow."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from segframe.config.changed_settings import flatten
from segframe.errors import UserError
from segframe.training.loggers.sent_steps import SentSteps, first_line, require

log = logging.getLogger(__name__)


class MLflow(Logger):
    """A run of MLflow; mlflow.json is in `save_dir`.

    `tracking_uri`: null is the environment variable MLFLOW_TRACKING_URI, or mlflow.db in `save_dir`, with pictures in
    mlflow/ there. Values that a server does not take are lost with a warning, which is no reason to end a training.
    """

    name = version = ""

    def __init__(
        self,
        save_dir: str,
        tracking_uri: str | None = None,
        experiment_name: str = "segframe",
        tags: dict[str, str] | None = None,
    ) -> None:
        require("mlflow")
        super().__init__()
        self.sent = SentSteps(Path(save_dir) / "mlflow.json")
        self.folder = Path(save_dir).absolute()
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.experiment_name, self.tags = experiment_name, tags
        self._client: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client; UserError where the run cannot be started or continued."""
        from mlflow.exceptions import MlflowException

        if self._client is None:
            try:
                with only_warnings():  # a line for each table of a new database
                    self._client = self._open()
            except MlflowException as error:
                place = f"see logger.mlflow.tracking_uri and {self.sent.path}"
                raise UserError(f"logger=mlflow: {first_line(error)}; {place}") from error
        return self._client

    def _open(self) -> Any:
        from mlflow import MlflowClient

        own = self.folder / "mlflow"
        client = MlflowClient(self.tracking_uri or f"sqlite:///{own}.db")
        if self.sent.id is not None:
            client.update_run(self.sent.id, status="RUNNING")
            place = client.get_run(self.sent.id).info.artifact_uri
            if not self.tracking_uri and not place.startswith(f"{own.as_uri()}/"):
                raise UserError(
                    f"logger=mlflow: {own}.db writes pictures to {place}, where this folder was; remove mlflow.db and "
                    "mlflow.json to start a new run of MLflow"
                )
            return client
        found = client.get_experiment_by_name(self.experiment_name)
        location = None if self.tracking_uri else own.as_uri()
        number = found.experiment_id if found else client.create_experiment(self.experiment_name, location)
        self.sent.add(client.create_run(number, run_name=self.folder.name, tags=self.tags).info.run_id)
        return client

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the settings by their dotted names; MLflow refuses to change those that it has."""
        from mlflow.entities import Param

        client = self.experiment
        known = client.get_run(self.sent.id).data.params
        texts = {valid(name): text[:500] for name, text in flatten(params).items()}
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        for start in range(0, len(new), 100):  # as many as it takes at once
            self._send(partial(client.log_batch, self.sent.id, params=new[start : start + 100]))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics that have not been sent."""
        from mlflow.entities import Metric

        now = int(1000 * time())
        values = {valid(name): float(value) for name, value in metrics.items()}
        new = [Metric(name, value, now, step or 0) for name, value in values.items() if self.sent.lacks(name, step)]
        if new:
            names = [metric.key for metric in new]
            self._send(partial(self.experiment.log_batch, self.sent.id, metrics=new), names, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Show images (H, W, 3) under a name, the second and further ones with a number."""
        for number, image in enumerate(images):
            name = valid(f"{key}_{number}" if number else key)
            if self.sent.lacks(name, step):
                show = partial(self.experiment.log_image, self.sent.id, image, key=name, step=step, synchronous=True)
                self._send(show, [name], step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._client is not None:
            ended = "FINISHED" if status == "success" else "FAILED"
            self._send(partial(self._client.set_terminated, self.sent.id, ended))

    def _send(self, call: Callable[[], object], names: Iterable[str] = (), step: int | None = None) -> None:
        from mlflow.exceptions import MlflowException

        try:
            call()
        except MlflowException as error:
            log.warning("logger=mlflow: not logged at step %s: %s", step, first_line(error))
        else:
            self.sent.add(self.sent.id, names, step)


def valid(name: str) -> str:
    return re.sub(r"[^\w/. -]+", "_", name.replace("[", ".").replace("]", ""), flags=re.ASCII)


@contextmanager
def only_warnings() -> Iterator[None]:
    """Log nothing below warnings, in the whole process."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
