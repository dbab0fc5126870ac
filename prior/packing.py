"""A matrix in the memory layout in which the processor multiplies by it fastest."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_linear(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """The function x (R, C_in) -> x @ weight.T + bias.

    On a CPU with oneDNN the weight is reordered once, as torch.compile does when it freezes a model: for few rows the
    product is then up to twice as fast as `linear`, which reorders at each call.

    Args:
        weight: (C_out, C_in), float32 or bfloat16; other types are multiplied as they are.
        bias: (C_out,) of the same type, or None.
        rows: R for which it should be fastest; any other is right as well.
    """
    weight = weight.detach().contiguous()
    bias = None if bias is None else bias.detach()
    packs = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    packs = packs and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")  # of the inductor, not promised to stay
    if not packs or weight.dtype not in (torch.float32, torch.bfloat16):
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
