"""A matrix in the memory layout in which the processor multiplies by it fastest, and what follows in the same pass."""

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["silu", "gelu_tanh"]
Library = Literal["batched", "mkl", "onednn", "torch"]

FEW_ROWS = 4  # up to which a product takes as long as reading its matrix does
BLOCKS, ROWS_IN_BLOCKS = 8, 2  # blocks of a matrix whose products are one batch; rows up to which that is fastest


class PackedLinear:
    """The function x (R, C_in) -> x @ weight.T + bias (R, C_out).

    On a CPU the weight is reordered once, by oneDNN or MKL, as torch.compile does when it freezes a model: the product
    is then up to twice as fast as `linear`, which reorders at each call. For few rows it may stay as it is, and be
    multiplied as a batch of blocks: see `library_for`.

    Args:
        weight: (C_out, C_in), float32 or bfloat16; other types are multiplied as they are.
        bias: (C_out,) of the same type, or None.
        rows: R for which it should be fastest; any other is right as well.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.weight, self.dtype, self.rows = weight.detach().contiguous(), weight.dtype, rows
        self.bias = None if bias is None else bias.detach()
        self.backend = library_for(weight, rows)
        self.packed: Tensor = self.weight
        if self.backend == "onednn":
            self.weight = self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
        if self.backend == "mkl":
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, rows)
        if self.backend == "batched":
            self.blocks = self.weight.unflatten(0, (BLOCKS, -1))

    def __call__(self, x: Tensor) -> Tensor:
        if self.backend == "batched" and len(x) <= ROWS_IN_BLOCKS:
            return self._batched(x).flatten().view(len(x), -1)  # one row too has a row's strides, which bmm reads
        if self.backend in ("onednn", "batched"):
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        if self.backend == "mkl":
            return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, self.rows)
        return F.linear(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """The activation of the product."""
        if self.backend != "onednn":
            y = self(x)
            return F.silu(y, inplace=True) if activation == "silu" else F.gelu(y, approximate="tanh")
        name, algorithm = {"silu": ("swish", ""), "gelu_tanh": ("gelu", "tanh")}[activation]  # oneDNN's names
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, name, [], algorithm)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus other (R, C_out), in the wider of their types."""
        if other.dtype != self.dtype:
            return self(x) + other
        if self.backend == "batched" and len(x) <= ROWS_IN_BLOCKS:
            return other + self._batched(x)
        if self.backend != "onednn":
            at_once = self.backend == "torch" and self.bias is None and self.weight.dtype == self.dtype
            return torch.addmm(other, x, self.weight.mT) if at_once else self(x).add_(other)
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, "add")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product times other (R, C_out), elementwise."""
        if self.backend != "onednn" or other.dtype != self.dtype:
            return self(x) * other
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, "mul")

    def _batched(self, x: Tensor) -> Tensor:
        """The product of a few rows, as a view that lies the other way round."""
        y = torch.bmm(self.blocks, x.mT.expand(BLOCKS, -1, -1)).flatten(0, 1).mT
        return y if self.bias is None else y + self.bias


def library_for(weight: Tensor, rows: int) -> Library:
    """Whose product of so many rows by a reordered matrix of this type is fastest here; "torch" does not reorder.

    In float32 MKL, from which torch has its own products, takes 0.7 to 0.85 times as long as oneDNN on processors of
    Intel, which it is made for, and longer on others. On those its batch of eight blocks of the matrix, which is not
    reordered, takes 0.4 to 0.6 times as long as oneDNN for one row and 0.5 to 0.75 for two (AMD EPYC, Zen 4): it reads
    as fast as the memory gives. The operators are the inductor's, and not promised to stay.
    """
    if weight.device.type != "cpu":
        return "torch"
    processor = _processor() if weight.dtype == torch.float32 and torch.backends.mkl.is_available() else None
    if processor and "Intel" in processor:
        return "mkl" if rows > FEW_ROWS and hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight") else "torch"
    packs = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not packs or weight.dtype not in (torch.float32, torch.bfloat16):
        return "torch"
    return "batched" if processor and rows <= ROWS_IN_BLOCKS and len(weight) % BLOCKS == 0 else "onednn"


@functools.cache
def _processor() -> str | None:
    """Its name, where torch tells it: not before 2.12."""
    return getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name")


class Int8Linear(PackedLinear):
    """The same with the weight as int8, a scale for each output channel: for few rows, whose time is that of reading.

    Args:
        weight: (C_out, C_in), rounded to 127 steps of its row's largest magnitude to each side.
        bias: (C_out,) or None.
        rows: R. For more than `FEW_ROWS`, when products and not bytes take the time, on other devices than CPUs, and
            where C_in is no multiple of 32, which torch's product reads beyond, the rounded weight is held as bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        scales = weight.detach().float().abs().amax(dim=1).clamp(min=1e-30) / 127
        steps = (weight.detach().float() / scales[:, None]).round()
        bias = None if bias is None else bias.bfloat16()
        if rows > FEW_ROWS or weight.device.type != "cpu" or weight.shape[1] % 32:
            super().__init__((steps * scales[:, None]).bfloat16(), bias, rows)
            return
        self.weight, self.scales, self.bias = steps.to(torch.int8).contiguous(), scales.bfloat16(), bias
        self.dtype, self.backend = torch.bfloat16, "torch"

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight.dtype != torch.int8:
            return super().__call__(x)
        if len(x) > FEW_ROWS:  # of a prompt
            y = F.linear(x, self.weight.to(x.dtype)) * self.scales
        else:
            y = torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)
        return y if self.bias is None else y + self.bias


def packed_linear(weight: Tensor, bias: Tensor | None, rows: int, dtype: torch.dtype) -> PackedLinear:
    """The function x -> x @ weight.T + bias with its weight in dtype; int8 takes x as bfloat16."""
    if dtype == torch.int8:
        return Int8Linear(weight, bias, rows)
    return PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype), rows)


class GatedLinear:
    """The function x (R, C_in) -> silu(x @ gate.T) * (x @ up.T), (R, C_out), of weights (C_out, C_in)."""

    def __init__(self, gate: Tensor, up: Tensor, rows: int, dtype: torch.dtype):
        # oneDNN applies each factor as it multiplies; elsewhere one product takes two thirds of the time of two.
        self.apart = dtype == torch.int8 or library_for(gate.to(dtype), rows) == "onednn"
        weights = (gate, up) if self.apart else (torch.cat([gate, up]),)
        self.products = [packed_linear(weight, None, rows, dtype) for weight in weights]

    def __call__(self, x: Tensor) -> Tensor:
        if self.apart:
            gate, up = self.products
            return up.times(x, gate.activated(x, "silu"))
        gate, up = self.products[0](x).chunk(2, dim=-1)
        return F.silu(gate, inplace=True).mul_(up)
