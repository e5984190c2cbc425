"""Images, small networks and checkpoints for the tests of inference."""

import torch
import torch.nn.functional as F
from conftest import OWN_BACKBONE, build_network, composed
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from segframe.config.instantiate import instantiate
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.logits import Logits
from segframe.models.segmenter import Normalize, Segmenter
from segframe.models.weights import checkpoint

NAMES = ("k0", "k1", "k2")


def images(height=64, width=64, n=1):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def save_image(path, height=45, width=61):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(images(height, width)[0].permute(1, 2, 0).numpy()).save(path)


def save_checkpoint(tmp_path, *overrides, classes=NAMES):
    """Write x.ckpt with an untrained network; return that network."""
    torch.manual_seed(0)
    config = composed(*overrides)
    segmenter = build_network(*overrides, classes=len(classes)).eval()
    content = {
        "state_dict": {f"segmenter.{name}": tensor for name, tensor in segmenter.state_dict().items()},
        checkpoint.KEY: checkpoint.describe(
            OmegaConf.create(OmegaConf.to_container(config, resolve=True)), classes, ((0, 0, 0),) * len(classes)
        ),
    }
    torch.save(content, tmp_path / "x.ckpt")
    return segmenter


class Cells(nn.Module):
    """Stands in for a network; the scores (N, C, h, w) of a cell of `stride` pixels depend on its pixels alone.

    They are a random function of the pixels' mean, the same wherever a window begins.
    """

    def __init__(self, channels=3, stride=8, aligned=False):
        super().__init__()
        self.stride, self.aligned = stride, aligned
        self.frequencies = torch.rand(channels, 1, 1, generator=torch.Generator().manual_seed(2)) * 0.3
        self.normalize = Normalize([0.0] * 3, [1.0] * 3)
        self.channels = 3
        self.device = torch.device("cpu")

    def outputs(self, batch):
        size = (batch.shape[-2], batch.shape[-1])
        x = batch[:, :1].float()
        x = x[..., :: self.stride, :: self.stride] if self.aligned else F.avg_pool2d(x, self.stride, ceil_mode=True)
        return {"main": Logits((x * self.frequencies).sin(), size, self.stride if self.aligned else None)}


class Narrow(Backbone):
    """Five strided convolutions of 8 channels."""

    def __init__(self):
        super().__init__()
        self.lr_multiplier = 1.0
        self.stages = nn.ModuleDict({f"c{k}": nn.Conv2d(3 if k == 1 else 8, 8, 3, 2, 1) for k in range(1, 6)})
        self.features = {f"c{k}": Feature(8, 2**k, 0.0) for k in range(1, 6)}

    def forward(self, batch):
        maps, x = {}, batch
        for name, stage in self.stages.items():
            maps[name] = x = stage(x).tanh()
        return maps


def network(head):
    """A small network with random weights, none of them zero."""
    torch.manual_seed(0)
    if head in OWN_BACKBONE:
        backbone, small = OWN_BACKBONE[head]
        return build_network(f"backbone={backbone}", *small, f"head={head}", classes=5).eval()
    backbone = Narrow()
    layers = instantiate(composed(f"head={head}").head, "head")(backbone.features, 5)
    for parameter in layers.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    return Segmenter(backbone, layers, None, Normalize([120.0] * 3, [60.0] * 3)).eval()
