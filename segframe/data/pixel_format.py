"""Channels and bits of a dataset's images, and the conversion of files to them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segframe.errors import UserError


class PixelFormat(NamedTuple):
    """The images of a dataset: data.channels and data.max_value."""

    channels: int = 3
    max_value: int = 255

    @classmethod
    def of_checkpoint(cls, channels: int, config: dict[str, Any]) -> "PixelFormat":
        """Return a checkpoint's pixel format; data.max_value is 255 where its config has no valid one."""
        data = config.get("data")
        max_value = data.get("max_value") if isinstance(data, dict) else None
        return cls(channels, max_value if isinstance(max_value, int) and 255 < max_value < 65_536 else 255)

    @property
    def depth(self) -> type[np.uint8] | type[np.uint16]:
        """The type of the values: 8 bits if the highest is 255."""
        return np.uint8 if self.max_value == 255 else np.uint16

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel of all channels."""
        return self.channels * np.dtype(self.depth).itemsize

    def scaled(self, image: np.ndarray) -> np.ndarray:
        """Return an image in units of 0 ... 255: 8 bits as they are, 16 bits as float32, without rounding.

        What augmentation made brighter than white becomes white, as in 8 bits.
        """
        if image.dtype == np.uint8:
            return image
        return np.minimum(image, self.max_value).astype(np.float32) * np.float32(255 / self.max_value)


RGB = PixelFormat()


def fit(path: Path | str, values: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return the values of a file, (H, W, C), with the channels of `pixels`; UserError if anything would be lost."""
    found, asked = values.shape[2], pixels.channels
    if values.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} holds {values.dtype}: save its values as uint8 or uint16")
    if values.dtype != pixels.depth:
        cure = "train with data.max_value=255, or use images of 16 bits alone"
        if pixels.max_value == 255:
            cure = "train with data.max_value=65535 (4095 if white is that, in 12 bits), or convert it to 8 bits"
        bits = 8 * values.itemsize
        raise UserError(f"{path} has {bits} bits per channel, and data.max_value={pixels.max_value}: {cure}")
    if pixels.max_value != 255 and values.max() > pixels.max_value:
        raise UserError(
            f"{path} holds {values.max()}, and data.max_value={pixels.max_value}: set it to the highest value"
        )
    colours, varies = 1 if found == 2 else 3, False
    if asked in (1, 3) and found not in (1, 3):
        varies = bool((values[..., colours:] != values[0, 0, colours:]).any())
        values = values if varies else values[..., :colours]
    if asked == 3 and values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    elif asked == 1 and values.shape[2] == 3 and (values == values[..., :1]).all():
        values = values[..., :1]
    if values.shape[2] != asked:
        first = "the first" if colours == 1 else "RGB"
        more = f", and those after {first} (alpha or bands) vary" if varies else ""
        cure = f"train with data.channels={found} and normalize for as many, or save it with {asked}"
        if len(values) == asked:
            cure = f"save its array {values.shape} as (H, W, channels)"
        raise UserError(f"{path} has {found} channel{'s' * (found > 1)}{more}, but data.channels={asked}: {cure}")
    return np.ascontiguousarray(values)
