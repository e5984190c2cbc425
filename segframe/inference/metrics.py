"""Every figure of a validation from one dataset-wide confusion matrix, as VOC and the FCN paper define them."""

import torch
from torch import Tensor, nn


class ConfusionMatrix(nn.Module):
    """Counts pixels in int64 `matrix` (C, C): rows are the truth, columns the prediction; void pixels are left out."""

    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), persistent=False)

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Adds classes (N, H, W) against masks (N, H, W); masks hold 0 ... C-1 or 255."""
        num_classes = len(self.matrix)
        # Rows for all 256 mask values, those beyond the classes cut off: void costs no masking.
        key = truth.int().mul_(num_classes).add_(prediction).flatten()
        counts = torch.bincount(key, minlength=256 * num_classes)
        self.matrix += counts[: num_classes**2].view(num_classes, num_classes)

    def reset(self) -> None:
        """Starts a new count."""
        self.matrix.zero_()


def compute_metrics(matrix: Tensor, classes: tuple[str, ...], prefix: str) -> dict[str, float]:
    """mIoU, accuracies and IoU per class (0 ... 1) from a confusion matrix, under `prefix`/.

    A class that occurs neither in truth nor in prediction is NaN and not counted in the mean; frequency-weighted IoU
    and the two accuracies are those of Long et al., 2015, section 5.
    """
    counts = matrix.cpu().double()
    correct, truth, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    iou = correct / (truth + predicted - correct)
    return {
        f"{prefix}/miou": iou.nanmean().item(),
        f"{prefix}/pixel_accuracy": (correct.sum() / truth.sum()).item(),
        f"{prefix}/mean_accuracy": (correct / truth).nanmean().item(),
        f"{prefix}/fwiou": ((truth * iou).nansum() / truth.sum()).item(),
        **{f"{prefix}/iou/{name}": value for name, value in zip(classes, iou.tolist(), strict=True)},
    }


def best_mode(figure: str) -> str:
    """Where a figure `<split>/<name>` is best: `min` for the loss, `max` for all others."""
    return "min" if figure.split("/")[1:] == ["loss"] else "max"  # a class may have that name: val/iou/loss
