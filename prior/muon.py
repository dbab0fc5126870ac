"""Muon for matrices that may be sharded over processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from wvq.tokenizer.distributed import whole_tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (arXiv 2502.16982), which also is right for matrices that are sharded (FSDP2).

    Momentum is sharded as the matrices are. The orthogonalization is of a whole matrix: every process gathers one after
    the other, in the bfloat16 it is computed in, and keeps its shard of the outcome. torch's own would multiply shards:
    with other roundings, and an error for a matrix with fewer rows than processes.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a collective call if the matrices are sharded."""
        if not any(isinstance(matrix, DTensor) for group in self.param_groups for matrix in group["params"]):
            return super().step(closure)
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._step_sharded(matrix, matrix.grad, group)
        return loss

    def _step_sharded(self, matrix: DTensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        change = _orthogonal_change(whole_tensor(update.bfloat16()), group).to(matrix.dtype)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(distribute_tensor(change, matrix.device_mesh, matrix.placements, src_data_rank=None))


def _orthogonal_change(update: Tensor, group: dict[str, Any]) -> Tensor:
    """What `torch.optim.Muon` without momentum and decay adds to a matrix for this update."""
    matrix = nn.Parameter(torch.zeros_like(update, dtype=torch.float32))
    matrix.grad = update.float()
    names = ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
    options = {name: group[name] for name in names}
    torch.optim.Muon([matrix], weight_decay=0.0, momentum=0.0, nesterov=False, **options).step()
    return matrix.detach()
