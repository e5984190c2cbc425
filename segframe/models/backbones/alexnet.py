"""AlexNet (Krizhevsky et al., 2012) with fc6 and fc7 as convolutions, as in FCN-AlexNet (Long et al., 2015)."""

from pathlib import Path

from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.backbones.vgg import initialize
from segframe.models.weights.checkpoint import load_state_dict
from segframe.models.weights.pretrained import load_strictly


class AlexNetFC(Backbone):
    """Caffe's AlexNet: grouped convolutions, pooling that rounds up, then local response normalisation.

    c2 is conv1, c3 the map after the first pooling, c4 conv5, c5 fc7; layers have Caffe's names. `input_padding` is
    conv1's: 5, or the release's 100, with which fc6 is unpadded. `weights`: a file with a state dict under these names
    (fc6 and fc7 as convolutions or as matrices), trained on images normalised as in Caffe (normalize=caffe).
    """

    has_blocks = False

    def __init__(
        self,
        weights: str | None,
        input_padding: int,
        fc6_padded: bool,
        fc_channels: int,
        dropout: float,
        lr_multiplier: float,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if input_padding < 5:
            raise UserError(f"backbone.input_padding must be at least 5, got {input_padding}")
        self.lr_multiplier = lr_multiplier
        self.conv1 = nn.Conv2d(in_channels, 96, 11, stride=4, padding=input_padding)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Conv2d(256, fc_channels, 6)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        # fc6's kernel is even and poolings are unpadded: asymmetric padding centres cell 0 on pixel 12.
        self.pad = nn.ZeroPad2d((3, 2, 3, 2)) if fc6_padded else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        if weights is None:
            initialize(self)
        elif not Path(weights).is_file():
            raise UserError(
                f"backbone.weights={weights}: there is no such file; give a state dict with Caffe's names "
                "conv1 ... conv5, fc6, fc7, or null to train from scratch"
            )
        else:
            own, state = self.state_dict(), load_state_dict(Path(weights))
            for name in own.keys() & state.keys():
                if state[name].numel() == own[name].numel():  # matrices of fc6 and fc7
                    state[name] = state[name].view_as(own[name])
            load_strictly(self, state, weights)
        conv1 = 5.0 - input_padding
        pool5 = conv1 + 4 + 8 + 16
        self.features = {
            "c2": Feature(96, 4, conv1),
            "c3": Feature(96, 8, conv1 + 4),
            "c4": Feature(256, 16, conv1 + 4 + 8),
            "c5": Feature(fc_channels, 32, pool5 + (2.5 - (3 if fc6_padded else 0)) * 32),
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c2 (stride 4), c3 (8), c4 (16) and c5 = fc7 (32) of images (N, C, H, W)."""
        c2 = self.conv1(images).relu_()
        c3 = self.norm(self.pool(c2))
        x = self.norm(self.pool(self.conv2(c3).relu_()))
        c4 = self.conv5(self.conv4(self.conv3(x).relu_()).relu_()).relu_()
        fc6 = self.dropout(self.fc6(self.pad(self.pool(c4))).relu_())
        return {"c2": c2, "c3": c3, "c4": c4, "c5": self.dropout(self.fc7(fc6).relu_())}
