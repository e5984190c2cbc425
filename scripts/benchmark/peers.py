"""Other projects' implementations: their own code if it can be installed, else a few lines that follow it."""

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.networks import Context
from benchmark.row import NotMeasurable
from segframe import IGNORE_INDEX

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def need(module: str) -> ModuleType:
    """Import a peer's package; NotMeasurable if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise NotMeasurable(f"{module} is not installed: pip install 'segframe[benchmark]'") from None


def plain_cross_entropy(values: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The loss of all peers: logits at full size, then cross-entropy (torchvision's reference `criterion`)."""
    full = F.interpolate(values.float(), size, mode="bilinear", align_corners=False)
    return F.cross_entropy(full, mask.long(), ignore_index=IGNORE_INDEX)


def mmseg_areas(prediction: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """mmseg 1.2's IoUMetric.intersect_and_union of one image: three histograms."""
    kept = label != IGNORE_INDEX
    prediction, label = prediction[kept], label[kept]
    both = prediction[prediction == label]
    intersect, predicted, true = (
        torch.histc(x.float(), bins=num_classes, min=0, max=num_classes - 1).cpu() for x in (both, prediction, label)
    )
    return intersect, predicted, true


def mmseg_windows(length: int, window: int, stride: int) -> list[int]:
    """The first pixels of mmseg's windows along an axis; the last window is moved back to the border."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(k * stride + window, length) - window, 0) for k in range(count)]


def mmseg_slide(model: Callable[[Tensor], Tensor], image: Tensor, num_classes: int, window: int, stride: int) -> Tensor:
    """mmseg 1.2's slide_inference and argmax of one image (1, 3, H, W): classes (1, H, W).

    `model` returns coarse logits of a window, which are upsampled, padded to the whole image and added.
    """
    height, width = image.shape[-2:]
    preds = image.new_zeros((1, num_classes, height, width), dtype=torch.float32)
    count = image.new_zeros((1, 1, height, width), dtype=torch.float32)
    for top in mmseg_windows(height, window, stride):
        for left in mmseg_windows(width, window, stride):
            bottom, right = min(top + window, height), min(left + window, width)
            crop = image[:, :, top:bottom, left:right]
            logits = F.interpolate(model(crop), crop.shape[-2:], mode="bilinear", align_corners=False)
            preds += F.pad(logits, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    # mmseg resizes to the original size even if it is the same.
    return F.interpolate(preds / count, (height, width), mode="bilinear", align_corners=False).argmax(1)


def smp_network(name: str, num_classes: int) -> nn.Module:
    """smp's DeepLabV3+, with full-size logits, and the atrous rates of stride 16 instead of its default of stride 8."""
    smp = need("segmentation_models_pytorch")
    return smp.DeepLabV3Plus(name, encoder_weights=None, classes=num_classes, decoder_atrous_rates=(6, 12, 18))


class TorchvisionNetwork(nn.Module):
    """torchvision's DeepLabV3, with full-size logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from torchvision.models.segmentation import deeplabv3_resnet50

        self.network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, C, H, W)."""
        return self.network(images)["out"]


def peer_step(model: nn.Module, images: Tensor, mask: Tensor, context: Context) -> Callable[[], Tensor]:
    """A plain training step: SGD with PyTorch's defaults on float images and int64 masks.

    Logits of another size than the mask are resized, as in torchvision's and mmseg's scripts.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    shape = (1, 3, 1, 1)
    mean, std = (torch.tensor(x, device=images.device).view(shape) for x in (MEAN, STD))
    images, target = (images.float() / 255 - mean) / std, mask.long()

    def step() -> Tensor:
        optimizer.zero_grad()
        with context():
            logits = model(images)
            if logits.shape[-2:] != target.shape[-2:]:
                logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
            total = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX)
        total.backward()
        optimizer.step()
        return total.detach()

    return step
