"""Experiment trackers: Weights & Biases and MLflow, offline; a resumed run sends nothing twice."""

import json
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import UNET

from segframe.errors import UserError
from segframe.training.loggers import CSVLogger, MLflow, TensorBoard, WandB, sent_steps
from segframe.training.loggers.base import picture_loggers
from segframe.training.loggers.mlflow_runs import valid
from segframe.training.loggers.sent_steps import SentSteps

PICTURE = np.zeros((4, 6, 3), np.uint8)


def test_what_was_sent_is_known_to_the_next_process(tmp_path):
    killed = SentSteps(tmp_path / "wandb.json")
    assert killed.lacks("train/loss", 0)
    killed.add("abc", ["train/loss", "val/miou"], 10)
    killed.add("abc", ["train/loss"], 20)
    resumed = SentSteps(tmp_path / "wandb.json")
    assert resumed.id == "abc"
    lacking = [
        (name, step) for name in ("train/loss", "val/miou") for step in (10, 20, 30) if resumed.lacks(name, step)
    ]
    assert lacking == [("train/loss", 30), ("val/miou", 20), ("val/miou", 30)]
    assert resumed.lacks("train/loss", None), "a value without a step"


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', '{"id": "a", "steps": {"loss": "x"}}'])
def test_a_damaged_record(tmp_path, text):
    (tmp_path / "mlflow.json").write_text(text)
    with pytest.raises(UserError, match=r"mlflow.json is damaged .*: move it away"):
        SentSteps(tmp_path / "mlflow.json")


@pytest.mark.parametrize(("logger", "package"), [(WandB, "wandb"), (MLflow, "mlflow")])
def test_a_package_that_is_missing(tmp_path, monkeypatch, logger, package):
    monkeypatch.setattr(sent_steps, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        logger(str(tmp_path))
    assert str(error.value) == f"logger={package}: needs {package}; pip install 'segframe[{package}]'"


def test_pictures_go_to_the_loggers_that_take_them(tmp_path):
    loggers = [CSVLogger(str(tmp_path)), TensorBoard(str(tmp_path))]
    trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, loggers=loggers)
    assert picture_loggers(trainer) == loggers[1:]
    assert picture_loggers(SimpleNamespace(**{**vars(trainer), "sanity_checking": True})) == []
    assert picture_loggers(SimpleNamespace(**{**vars(trainer), "is_global_zero": False})) == []


def test_names_that_mlflow_allows():
    assert valid("transforms.train[0].size") == "transforms.train.0.size"
    assert valid("val/iou/Straße (nass)") == "val/iou/Stra_e _nass_"


def send_in_two_parts(make_logger):
    """Log as a run that was killed after step 30, and as the one that resumed it from step 10."""
    for status, steps in (("failed", (10, 20, 30)), ("success", (20, 30, 40))):
        logger = make_logger()
        logger.log_hyperparams({"optimizer": {"lr": steps[0] / 100}})
        for step in steps:
            logger.log_metrics({"train/loss": 1 / step}, step)
        logger.log_metrics({"val/miou": steps[-1] / 100}, steps[-1])
        logger.log_image("validation/confusion", [PICTURE], steps[-1])
        logger.finalize(status)
        time.sleep(1.1)  # wandb names the folder of a part by the second


def wandb_history(folder):
    """The rows of all parts of an offline run, from its files in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, place = path.read_bytes(), 7
        while place < len(data):  # less than a block of 32 KB, hence a record of one part each
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            assert kind == 1
            record = Record.FromString(data[place + 7 : place + 7 + length])
            rows += [{"/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}]
            place += 7 + length
    return [row for row in rows if row]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network, and the working directory a new one."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    settings = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_CONSOLE": "off"}
    for name, value in (settings | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_wandb_continues_a_run(tmp_path, offline):
    pytest.importorskip("wandb", reason="needs pip install segframe[wandb]")
    (tmp_path / "run").mkdir()
    send_in_two_parts(lambda: WandB("run"))
    rows = wandb_history(tmp_path / "run")
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [
        (step, 1 / step) for step in (10, 20, 30, 40)
    ]
    assert [(row["step"], row["val/miou"]) for row in rows if "val/miou" in row] == [(30, 0.3), (40, 0.4)]
    pictures = list((tmp_path / "run").glob("wandb/offline-run-*/files/media/images/validation/confusion*.png"))
    assert len(pictures) == 2
    number = json.loads((tmp_path / "run/wandb.json").read_text())["id"]
    assert len(list((tmp_path / "run").glob(f"wandb/offline-run-*-{number}"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mlflow with SQLAlchemy 2.1
def test_mlflow_continues_a_run(tmp_path, offline):
    mlflow = pytest.importorskip("mlflow", reason="needs pip install segframe[mlflow]")
    (tmp_path / "run").mkdir()
    send_in_two_parts(lambda: MLflow("run"))
    client = mlflow.MlflowClient("sqlite:///run/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"optimizer.lr": "0.1"}, "those of the start"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in (10, 20, 30, 40)]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/miou")] == [30, 40]
    pictures = [Path(artifact.path).name for artifact in client.list_artifacts(run.info.run_id, "images")]
    assert len([name for name in pictures if name.startswith("validation") and name.endswith(".png")]) == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"mlflow", "mlflow.db", "mlflow.json"}
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match=r"mlflow.db writes pictures to .*/run/mlflow/.*, where this folder was; remove"
    ):
        _ = MLflow("moved").experiment
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


@pytest.mark.slow
def test_a_server_that_cannot_be_reached(offline, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    pytest.importorskip("mlflow", reason="needs pip install segframe[mlflow]")
    with pytest.raises(UserError, match=r"logger=mlflow: .*; see logger.mlflow.tracking_uri"):
        _ = MLflow("run", tracking_uri="http://localhost:9/api").experiment


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_run(run, tmp_path, offline, package):
    pytest.importorskip(package, reason=f"needs pip install segframe[{package}]")
    words = (*UNET, f"logger={package}", "trainer.max_steps=4", "trainer.val_every_n_steps=2", "output_dir=run")
    result = run("train.py", *words, "callbacks.curves.every_n_steps=1", "callbacks.images.num_images=1")
    assert result.code == 0, result.out
    steps = json.loads((tmp_path / f"run/{package}.json").read_text())["steps"]
    names = {"train/loss", "val/miou", "best/miou", "lr/head", "validation/confusion", "validation/0_val_0001"}
    assert dict.fromkeys(names, 4).items() <= steps.items()
    assert (tmp_path / "run/metrics.csv").is_file()
    assert list((tmp_path / "run").glob("events.*"))
