"""Loggers: metrics.csv, TensorBoard, Weights & Biases and MLflow, each continued by a resumed run."""

from segframe.training.loggers.csv_logger import CSVLogger
from segframe.training.loggers.mlflow_runs import MLflow
from segframe.training.loggers.tensorboard import TensorBoard
from segframe.training.loggers.weights_and_biases import WandB

__all__ = ["CSVLogger", "MLflow", "TensorBoard", "WandB"]
