"""Rows of sliding windows: the cost of merging them, without a network."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmark import peers
from benchmark.images import score_maps
from benchmark.measure import Call, compare
from benchmark.networks import composed
from benchmark.row import Group, Measured, Row, Setup, Target
from segframe.config.instantiate import instantiate
from segframe.models.logits import Logits
from segframe.models.segmenter import Normalize


class StandIn(nn.Module):
    """Precomputed logits at stride 8 in place of a network; pixels of `image()` hold their position in them."""

    channels = 3

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores
        self.device = scores.device
        self.normalize = Normalize([0.0] * self.channels, [1.0] * self.channels).to(scores.device)

    def image(self) -> Tensor:
        """The image (1, 3, H, W) of these logits; each pixel holds its cell's row and column."""
        rows, columns = (torch.arange(8 * n, device=self.scores.device) // 8 for n in self.scores.shape[-2:])
        grid = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack([*grid, grid[0]]).to(torch.uint8)[None]

    def coarse(self, images: Tensor) -> Tensor:
        """The logits of crops of `image()`, slightly different for every position of the crop."""
        height, width = (-(-side // 8) for side in images.shape[-2:])
        corners = images[:, :2, 0, 0].tolist()
        parts = [self.scores[:, y : y + height, x : x + width] * (1 + 1e-3 * (y + x)) for y, x in corners]
        return torch.stack(parts)

    def outputs(self, images: Tensor) -> dict[str, Logits]:
        """The interface of Segmenter."""
        return {"main": Logits(self.coarse(images), (images.shape[-2], images.shape[-1]), None)}


def windows(setup: Setup) -> Measured:
    """Sliding windows over one image, both modes."""
    height, width, window, stride = (setup.pick(full, full // 4) for full in (1024, 2048, 768, 512))
    num_classes = 150
    # At least as large as the image by which a network's stride is found.
    cells = (max(height, 512) // 8, max(width, 512) // 8)
    stand_in = StandIn(score_maps(num_classes, 1, cells)[0].to(setup.device)).eval()
    image = stand_in.image()[..., :height, :width].contiguous()

    def plain() -> Tensor:
        return peers.mmseg_slide(stand_in.coarse, image, num_classes, window, stride)

    expected, differs = plain(), {}

    def ours(mode: str) -> Callable[[], Call]:
        def make() -> Call:
            words = [f"inference.window={window}", f"inference.stride={stride}", f"inference.mode={mode}"]
            config = composed("checkpoint=none", "data=shapes", "inference=sliding_window", *words, name="evaluate")
            slide = instantiate(config.inference, "inference")

            def call() -> Tensor:
                return slide(stand_in, image).classes()

            apart = (call() != expected).float().mean().item()
            if apart > (1e-5 if mode == "exact" else 1e-2):
                differs[mode] = f"{100 * apart:.3f} % of the pixels differ"
            return call

        return make

    makers = {"exact": ours("exact"), "fast": ours("fast"), "mmseg-style": lambda: plain}
    with torch.inference_mode():
        found = compare(setup, makers, differs=differs)
    return replace(found, note="merging alone; fast may differ in 1 % of the pixels, at the windows' edges")


GROUPS = (
    Group(
        tuple(Row(f"windows_{mode}", "mmseg-style", Target(0.35, 0.3), ours=mode) for mode in ("exact", "fast")),
        windows,
    ),
)
