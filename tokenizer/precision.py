"""In which precision is computed: float32 without short cuts, and float64 where the device has it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Whose float32 is rounded to fewer bits (TF32, bfloat16) where the user allows it; what is not set asks the one above.
_BACKENDS: tuple[Any, ...] = (
    torch.backends,
    torch.backends.cudnn,
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.mkldnn.matmul,  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.mkldnn.conv,  # pyright: ignore[reportAttributeAccessIssue]
)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products and convolutions in all 24 bits, on GPUs and CPUs; afterwards as the user had it.

    Through `fp32_precision` alone: once it was used, torch raises where the older `allow_tf32` is read. A graph that is
    compiled takes the settings as they are when it is run; the search for the nearest code is one operation of it, with
    full precision of its own.
    """
    if torch.compiler.is_compiling():
        yield
        return
    before = []
    for backend in _BACKENDS:
        precision = backend.fp32_precision
        if precision != "ieee":
            backend.fp32_precision = "ieee"
            before.append((backend, precision))
    try:
        yield
    finally:
        for backend, precision in reversed(before):
            backend.fp32_precision = precision


@contextmanager
def layers_in_tf32(device: torch.device) -> Iterator[str]:
    """On a GPU by NVIDIA, products and convolutions of float32 in TF32 unless the user has said what they are to be.

    TF32 rounds factors to 11 bits and adds up in float32. Quantizers stay in `full_precision`.

    Yields:
        What they are computed in: "TF32", or "float32" elsewhere and where the user wants that.
    """
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore[reportAttributeAccessIssue]
    unsaid = [place for place in places if device.type == "cuda" and place.fp32_precision == "none"]
    for place in unsaid:
        place.fp32_precision = "tf32"
    try:
        yield "TF32" if device.type == "cuda" and places[0].fp32_precision == "tf32" else "float32"
    finally:
        for place in unsaid:
            place.fp32_precision = "none"


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64: Apple's GPUs do not, nor do some of Intel's."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def float64_device(device: torch.device) -> torch.device:
    """Where float64 of a device is computed: there, or on the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def to_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, on its `float64_device`; differentiable."""
    return tensor.to(float64_device(tensor.device)).to(torch.float64)  # moved first: a GPU without float64 cannot cast


def keeping_dtype(convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` is given, so that it moves tensors but casts none, and float64 to its `float64_device`.

    For modules whose state is worth its digits, whatever the network around them is cast to.
    """

    def move(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64 and not has_float64(convert(tensor.new_empty(0, dtype=torch.float32)).device):
            return tensor.cpu()
        moved = convert(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move
