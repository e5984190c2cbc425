"""Roofline model: a lower bound of a call's time, from the FLOPs and the memory traffic of its operators."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


@dataclass(frozen=True)
class Ceilings:
    """The measured peak performance of a device."""

    flops: float
    """FLOP/s of a large matrix product."""
    bandwidth: float
    """Bytes/s that a large copy reads and writes."""


class Roofline(TorchDispatchMode):
    """Sums, over operators, the longer of the time of their FLOPs and that of the bytes they read and write.

    Williams et al., 2009. Kernels that are no operators of PyTorch, such as Triton's, count nothing.
    """

    def __init__(self, ceilings: Ceilings) -> None:
        super().__init__()
        self.ceilings = ceilings
        self.seconds = 0.0
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        flops = flops_of(func, args, out)
        moved = sum(tensor.nbytes for tensor in distinct((args, kwargs, out)))
        self.flops += flops
        self.seconds += max(flops / self.ceilings.flops, moved / self.ceilings.bandwidth)
        return out


def distinct(values: Any) -> Iterable[Tensor]:
    """Return the tensors in nested containers, without those that share the memory of an earlier one."""
    return {x.data_ptr(): x for x in tree_leaves(values) if isinstance(x, Tensor)}.values()


def flops_of(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return the FLOPs of convolutions and matrix products; of other operators 0, since their bytes take longer.

    torch's counter takes the gradients of grouped convolutions for dense ones.
    """
    if func is aten.convolution.default:
        return 2 * out.numel() * prod(args[1].shape[1:])
    if func is aten.convolution_backward.default:
        gradient, _, weight, *_, wanted = args
        return 2 * gradient.numel() * prod(weight.shape[1:]) * sum(wanted[:2])
    if func in (aten.mm.default, aten.bmm.default):
        return 2 * out.numel() * args[0].shape[-1]
    if func in (aten.addmm.default, aten.baddbmm.default):
        return 2 * out.numel() * args[1].shape[-1]
    return 0


def measure_ceilings(
    clock: Callable[[Callable[[], object]], float], device: torch.device, dtype: torch.dtype
) -> Ceilings:
    """Measure a device's ceilings in a dtype; `clock` returns the seconds of a call."""
    side, numel = (8192, 1 << 28) if device.type == "cuda" else (512, 1 << 22)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(numel, device=device)
    target = torch.empty_like(source)
    return Ceilings(2 * side**3 / clock(lambda: a @ b), 2 * source.nbytes / clock(lambda: target.copy_(source)))
