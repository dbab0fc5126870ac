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


FEW_ROWS = 4  # up to which a product takes as long as reading its matrix does


class Int8Linear(PackedLinear):
    """The same with the weight as int8, a scale for each output channel: for few rows, whose time is that of reading.

    Args:
        weight: (C_out, C_in), rounded to 127 steps of its row's largest magnitude to each side.
        bias: (C_out,) or None.
        rows: R. For more than `FEW_ROWS`, when products and not bytes take the time, and on other devices than CPUs the
            rounded weight is held as bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        scales = weight.detach().float().abs().amax(dim=1).clamp(min=1e-30) / 127
        steps = (weight.detach().float() / scales[:, None]).round()
        bias = None if bias is None else bias.bfloat16()
        if rows > FEW_ROWS or weight.device.type != "cpu":
            super().__init__((steps * scales[:, None]).bfloat16(), bias, rows)
            return
        self.weight, self.scales, self.bias = steps.to(torch.int8).contiguous(), scales.bfloat16(), bias
        self.dtype, self.packed = torch.bfloat16, False

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight.dtype != torch.int8:
            return super().__call__(x)
        rows = x.flatten(0, -2)
        if len(rows) > FEW_ROWS:  # of a prompt
            y = F.linear(rows, self.weight.to(x.dtype)) * self.scales
        else:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scales)
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


def packed_linear(weight: Tensor, bias: Tensor | None, rows: int, dtype: torch.dtype) -> PackedLinear:
    """The function x -> x @ weight.T + bias with its weight in dtype; int8 takes x as bfloat16."""
    if dtype == torch.int8:
        return Int8Linear(weight, bias, rows)
    return PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype), rows)
