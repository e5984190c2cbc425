"""Registers and spills of the Triton kernels, compiled without a GPU.

    python tests/models/kernel_resources.py 90

prints them for a compute capability, 9.0.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

sys.path.insert(0, str(Path(__file__).parents[2]))
from segframe.models.ops import kernels
from segframe.models.ops.targets import Targets

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
HAS_TOOLS = all((TOOLS / name).exists() for name in ("ptxas", "cuobjdump"))


class Launch(NamedTuple):
    """A kernel, and the arguments it is launched with."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    def __str__(self) -> str:
        constants = [f"{name}={value}" for name, value in self.arguments.items() if name in self.constants()]
        return f"{self.kernel.fn.__name__}({', '.join(constants)}) of {self.arguments[self.kernel.arg_names[0]].dtype}"

    def constants(self) -> dict[str, Any]:
        """Return what a kernel is compiled for: constants, and pointers that are None."""
        constexprs = {parameter.name for parameter in self.kernel.params if parameter.is_constexpr}
        return {name: value for name, value in self.arguments.items() if name in constexprs or value is None}


def launches(dtype: torch.dtype, cells: int, pixels: int, weighted: bool, smoothing: float) -> list[Launch]:
    """Return the launches of loss, gradient, classes and counts for square maps of 21 classes."""
    found: list[Launch] = []

    def record(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "enable_fp_fusion")}
        found.append(Launch(kernel, {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}, options))

    run, JITFunction.run = JITFunction.run, record
    try:
        values = torch.randn(2, 21, cells, cells).to(dtype).requires_grad_()
        mask = torch.zeros(2, pixels, pixels, dtype=torch.uint8)
        weights = torch.ones(21) if weighted else None
        kernels.cross_entropy(values, (pixels, pixels), None, Targets(mask, weights, smoothing))[0].backward()
        kernels.count_pairs(kernels.classes(values, (pixels, pixels), None), mask, torch.zeros(21, 21).long())
    finally:
        JITFunction.run = run
    return found


def resources(launch: Launch, capability: int) -> dict[str, int]:
    """Return the registers of a thread, the bytes that it spills to memory, and the bytes of shared memory."""
    kernel, constants = launch.kernel, launch.constants()
    signature = {
        name: "constexpr" if name in constants else mangle_type(launch.arguments[name]) for name in kernel.arg_names
    }
    # As PyTorch allocates tensors.
    aligned = {(k,): [["tt.divisibility", 16]] for k, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"], "shared": compiled.metadata.shared}


def variants() -> Iterator[Launch]:
    """Yield every kernel: at strides 4, 8, 16, 32 and 1, without options and with all; float32 and bfloat16."""
    seen = set()
    for cells in (65, 33, 17, 9, 257):
        for dtype in (torch.bfloat16, torch.float32):
            for weighted, smoothing in ((False, 0.0), (True, 0.1)):
                for launch in launches(dtype, cells, 257, weighted, smoothing):
                    if str(launch) not in seen:
                        yield launch
                    seen.add(str(launch))


def main() -> None:
    """Print a line per variant."""
    for launch in variants():
        print(launch, resources(launch, int(sys.argv[1])))


if __name__ == "__main__":
    main()
