"""A step of a network on tensors that have sizes but no contents, on torch's meta device, and what it holds."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LOWERED = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "atrous_conv2d"}
LOWERED |= {"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention"}
"""What autocast computes in 16 bits, by name."""


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, as long as something refers to them.

    `rearranged`: how many copies of its weight a convolution makes on its way back, beside the gradient (oneDNN's: 2).
    """

    def __init__(self, free_of_charge: Iterable[Tensor], rearranged: int) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.rearranged = rearranged
        self.counted = {tensor.untyped_storage()._cdata for tensor in free_of_charge}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        batch_norm = BATCH_NORM.get(func)
        out = batch_norm(*args) if batch_norm else func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        if func is torch.ops.aten.convolution_backward.default:
            self.peak = max(self.peak, self.now + self.rearranged * args[2].nbytes)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.counted:
            self.counted.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.counted.discard(key)
        self.now -= size


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any) -> tuple[Tensor, ...]:
    saved = x.new_empty(x.shape[1] if training else 0, dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(x), saved, torch.empty_like(saved)


def _batch_norm_backward(grad: Tensor, x: Tensor, weight: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
    of_weight = torch.empty_like(weight) if weight is not None else None
    answers = (torch.empty_like(x), of_weight, of_weight if of_weight is None else torch.empty_like(of_weight))
    return tuple(answer if wanted else None for answer, wanted in zip(answers, rest[-1], strict=True))


# PyTorch works these out from their formulas, on the meta device too: nine tenths of a rehearsal's time.
BATCH_NORM: dict[Any, Callable[..., tuple[Tensor | None, ...]]] = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
}


class _Lowered(Tensor):
    """A weight that has convolutions and products computed in `precision`, as autocast does, which has no meta device.

    Not a mode: what is computed again in the backward pass would run outside it.
    """

    precision = torch.float32
    copy: Callable[[], Tensor | None] = staticmethod(lambda: None)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if getattr(func, "__name__", "") in LOWERED:
                args, kwargs = map(cls._lower, args), {name: cls._lower(value) for name, value in kwargs.items()}
            return func(*args, **kwargs)

    @classmethod
    def _lower(cls, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, cls):
            return value.to(cls.precision)
        copy = value.copy()
        if copy is None:
            copy = value.to(cls.precision)
            value.copy = weakref.ref(copy)  # one for all scales of an image
        return copy


class _InBFloat16(_Lowered):
    precision = torch.bfloat16


class _InFloat16(_Lowered):
    precision = torch.float16


KINDS: dict[str, Any] = {"bf16-mixed": _InBFloat16, "16-mixed": _InFloat16}
DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
"""What the weights become, by trainer.precision."""


def without_contents(tensor: Tensor, precision: str) -> Tensor:
    """A tensor on the meta device, laid out as this one and of the type that trainer.precision makes of it."""
    dtype = DTYPES.get(precision, tensor.dtype) if tensor.is_floating_point() else tensor.dtype
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")
    return copy.as_subclass(KINDS.get(precision, Tensor)).requires_grad_(tensor.requires_grad)


@contextmanager
def eagerly(compiled: bool) -> Iterator[None]:
    """Lets the meta device compute what was made for others."""
    # Deterministic resizing asks for an autocast that the meta device lacks, and takes as much.
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    torch.use_deterministic_algorithms(False)
    try:
        with eager:
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
