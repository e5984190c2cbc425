"""Networks of the peer script. Nothing of segframe is imported here: it would count as the peer's memory."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg16


class PlainFCN8s(nn.Module):
    """FCN-8s as the repositories that follow Long et al. write it: torchvision's VGG-16 and transposed convolutions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = vgg16(weights=None).features
        self.encoder = nn.ModuleList([layers[:17], layers[17:24], layers[24:]])  # to pool3, pool4, pool5
        self.fc = nn.Sequential(
            *(nn.Conv2d(512, 4096, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout2d()),
            *(nn.Conv2d(4096, 4096, 1), nn.ReLU(inplace=True), nn.Dropout2d()),
        )
        self.score5, self.score4, self.score3 = (nn.Conv2d(n, num_classes, 1) for n in (4096, 512, 256))
        self.up5, self.up4 = (nn.ConvTranspose2d(num_classes, num_classes, 4, 2, 1, bias=False) for _ in range(2))
        self.up3 = nn.ConvTranspose2d(num_classes, num_classes, 16, 8, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, C, H, W)."""
        to_pool3, to_pool4, to_pool5 = self.encoder
        pool3 = to_pool3(images)
        pool4 = to_pool4(pool3)
        x, skip = self.score5(self.fc(to_pool5(pool4))), self.score4(pool4)
        x = F.interpolate(self.up5(x), skip.shape[-2:]) + skip
        skip = self.score3(pool3)
        x = self.up3(F.interpolate(self.up4(x), skip.shape[-2:]) + skip)
        return F.interpolate(x, images.shape[-2:])
