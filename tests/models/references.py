"""Reference logits of other projects' networks, stored without their code.

`references/<name>.npz` holds a network's key list, a seed and its logits; weights and image are drawn again from the
seed. They are uniform floats and integers of torch's CPU generator, the same bits on every machine. Written with
torch 2.15.0.
"""

import json
import zlib
from math import prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).with_suffix("")

Keys = dict[str, tuple[tuple[int, ...], str]]
"""Name -> (shape, dtype) of a state dict's tensors, in its order."""


class Reference(NamedTuple):
    """A network of another project: weights, input and logits."""

    keys: Keys
    seed: int
    gains: dict[str, float]
    images: Tensor
    """(1, 3, H, W) uint8, RGB"""
    logits: dict[str, Tensor]
    """Per output (1, num_classes, h, w) float32, in eval mode: the rows and columns `[::step, ::step]` of it."""
    step: dict[str, int]
    metadata: dict[str, Any]
    """repository, commit, torch's version, the calls, the preprocessing, what each output is, the logits' sizes."""


def load(name: str) -> Reference:
    """The stored reference of this name."""
    with np.load(FOLDER / f"{name}.npz") as file:
        metadata = json.loads(str(file["about"]))
        logits = {output: torch.from_numpy(file[output]) for output in metadata["outputs"]}
    keys = {key: (tuple(shape), dtype) for key, shape, dtype in metadata.pop("keys")}
    seed = metadata.pop("seed")
    step = {output: metadata["outputs"][output]["step"] for output in logits}
    return Reference(keys, seed, metadata.pop("gains"), seeded_images(metadata["size"], seed), logits, step, metadata)


def state(reference: Reference) -> dict[str, Tensor]:
    """The state dict of which the logits are stored."""
    return seeded_state(reference.keys, reference.seed, reference.gains)


def seeded_state(keys: Keys, seed: int, gains: dict[str, float]) -> dict[str, Tensor]:
    """A state dict of random tensors under which activations keep their size from layer to layer.

    Each depends only on (seed, name, shape). `gains` scales the tensors whose names end in such parts, e.g. the last
    norm of residual branches, whose sum would grow with depth, or transposed convolutions, where fewer inputs meet in
    a pixel.
    """
    return {name: seeded_tensor(name, shape, dtype, seed, gains) for name, (shape, dtype) in keys.items()}


def seeded_tensor(name: str, shape: tuple[int, ...], dtype: str, seed: int, gains: dict[str, float]) -> Tensor:
    """Weights by He et al. (2015), norm weights and variances in 0.5 ... 1.5, biases and means of deviation 0.1."""
    if dtype == "int64":
        return torch.zeros(shape, dtype=torch.int64)
    assert dtype == "float32"
    drawn = torch.rand(shape, generator=generator(seed, name))
    gain = prod(factor for end, factor in gains.items() if f".{name}".endswith(f".{end}"))
    if len(shape) > 1:
        return drawn.sub_(0.5).mul_(2 * gain * sqrt(6 / prod(shape[1:])))
    if name.endswith((".weight", ".running_var")):
        return drawn.add_(0.5).mul_(gain)
    return drawn.sub_(0.5).mul_(2 * gain * sqrt(3) * 0.1)


def seeded_images(size: tuple[int, int], seed: int, block: int = 5) -> Tensor:
    """An image (1, 3, *size), uint8, of squares in random colours: contrasts that survive pooling."""
    rows, columns = (-(-side // block) for side in size)
    drawn = torch.randint(0, 256, (1, 3, rows, columns), generator=generator(seed, "images"), dtype=torch.uint8)
    return drawn.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., : size[0], : size[1]].contiguous()


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, name) alone, in every process."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
