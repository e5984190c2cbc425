"""Predicted masks with the values of a dataset's own masks, as its server expects them."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segframe.config.instantiate import instantiate
from segframe.config.trust import check_trust
from segframe.data.base import SegmentationDataset
from segframe.errors import UserError
from segframe.models.weights.checkpoint import CheckpointMetadata


class Submission:
    """The encoding of class maps that undoes the label map of a run's dataset: Cityscapes' labelIds, for example."""

    def __init__(self, metadata: CheckpointMetadata, trust: Collection[str]) -> None:
        """`trust`: the names outside segframe that the checkpoint may have; UserError if a class has no mask value."""
        data = metadata.config.get("data")
        settings = data.get("dataset") if isinstance(data, Mapping) else None
        if not isinstance(settings, Mapping) or "_target_" not in settings:
            raise UserError(
                "submission=true: the checkpoint names no dataset, whose mask values it takes; leave it out"
            )
        check_trust({"data": {"dataset": settings}}, trust)
        dataset: type[SegmentationDataset] = instantiate({**settings, "_partial_": True}, "data.dataset").func
        try:
            values = dataset.mask_values(metadata.classes, settings)
        except UserError as error:
            raise UserError(f"submission=true: {error}; leave it out, index/ holds class indices") from error
        self.values = np.array(values, np.uint8 if max(values) < 256 else np.uint16)
        self.palette: bytes | None = None
        if dataset.has_palette_masks:
            colours = np.zeros((256, 3), np.uint8)
            colours[self.values] = metadata.palette
            self.palette = colours.tobytes()

    def encode(self, classes: NDArray[np.uint8]) -> Image.Image:
        """Return the mask of class indices (H, W): grey of 8 or 16 bits, or a palette image if the dataset's are."""
        mask = Image.fromarray(self.values[classes])
        if self.palette is not None:
            mask.putpalette(self.palette)
        return mask
