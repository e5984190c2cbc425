"""Training runs: schedulers and loggers that a config names."""

from segframe.training.loggers import CSVLogger, MLflow, TensorBoard, WandB
from segframe.training.schedulers import constant_lr, cosine_lr, poly_lr, step_lr

__all__ = ["CSVLogger", "MLflow", "TensorBoard", "WandB", "constant_lr", "cosine_lr", "poly_lr", "step_lr"]
