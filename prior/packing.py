"""A matrix in the memory layout in which the processor multiplies by it fastest, and what follows in the same pass."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["silu", "gelu_tanh"]


class PackedLinear:
    """The function x (R, C_in) -> x @ weight.T + bias (R, C_out).

    On a CPU with oneDNN the weight is reordered once, as torch.compile does when it freezes a model: for few rows the
    product is then up to twice as fast as `linear`, which reorders at each call.

    Args:
        weight: (C_out, C_in), float32 or bfloat16; other types are multiplied as they are.
        bias: (C_out,) of the same type, or None.
        rows: R for which it should be fastest; any other is right as well.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.weight, self.dtype = weight.detach().contiguous(), weight.dtype
        self.bias = None if bias is None else bias.detach()
        packs = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        packs = packs and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")  # of the inductor, not promised to stay
        self.packed = packs and weight.dtype in (torch.float32, torch.bfloat16)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """The activation of the product."""
        if not self.packed:
            y = self(x)
            return F.silu(y) if activation == "silu" else F.gelu(y, approximate="tanh")
        name, algorithm = {"silu": ("swish", ""), "gelu_tanh": ("gelu", "tanh")}[activation]  # oneDNN's names
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], algorithm)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus other (R, C_out), in the wider of their types."""
        if not self.packed or other.dtype != self.dtype:
            return self(x) + other
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product times other (R, C_out), elementwise."""
        if not self.packed or other.dtype != self.dtype:
            return self(x) * other
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "mul")
