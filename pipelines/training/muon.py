"""Muon for matrices and kernels that may be sharded over processes, and that can skip a step by a tensor."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from wvq.tokenizer.distributed import whole_tensor

_TABLES = ("embed_tokens.weight", "wte.weight", "lm_head.weight")  # a row for each id, in Llama and in GPT-2


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (arXiv 2502.16982), for kernels of convolutions and for matrices that are sharded (FSDP2) too.

    A kernel (C_out, C_in, h, w) is the matrix (C_out, C_in * h * w) that it multiplies patches by.

    Momentum is sharded as the matrices are. The orthogonalization is of a whole matrix: every process gathers one after
    the other, in the bfloat16 it is computed in, and keeps its shard of the outcome. torch's own would multiply shards:
    with other roundings, and an error for a matrix with fewer rows than processes.

    As torch's fused optimizers it leaves everything as it was where the attribute `found_inf`, a float32 scalar on the
    device, is 1, without asking the device for it.
    """

    found_inf: Tensor | None = None
    _step_supports_amp_scaling = True  # what torch calls that

    def __init__(self, params: Iterable[Any], **options: Any):
        super().__init__([{"params": []}], **options)  # torch's own would refuse kernels
        self.param_groups.clear()
        given = list(params)
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a collective call if the matrices are sharded."""
        matrices = [matrix for group in self.param_groups for matrix in group["params"]]
        plain = all(matrix.ndim == 2 and not isinstance(matrix, DTensor) for matrix in matrices)
        if plain and self.found_inf is None:
            return super().step(closure)
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._step_one(matrix, matrix.grad, group)
        return loss

    def _step_one(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        made = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        if self.found_inf is not None:  # NaN times 0 would be NaN
            gradient = torch.where(self.found_inf > 0, 0.0, gradient)
        momentum = state["momentum_buffer"]
        # Moved by a weight of 0 it is what it was, to the last bit.
        momentum.lerp_(gradient, (1 - group["momentum"]) * made)
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        whole = whole_tensor(update.bfloat16())
        change = _orthogonal_change(whole.flatten(1), group).view(whole.shape).to(matrix.dtype) * made
        matrix.mul_(1 - group["lr"] * group["weight_decay"] * made)
        if isinstance(matrix, DTensor):
            change = distribute_tensor(change, matrix.device_mesh, matrix.placements, src_data_rank=None)
        matrix.add_(change)


def _orthogonal_change(update: Tensor, group: dict[str, Any]) -> Tensor:
    """What `torch.optim.Muon` without momentum and decay adds to a matrix for this update."""
    matrix = nn.Parameter(torch.zeros_like(update, dtype=torch.float32))
    matrix.grad = update.float()
    names = ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
    options = {name: group[name] for name in names}
    torch.optim.Muon([matrix], weight_decay=0.0, momentum=0.0, nesterov=False, **options).step()
    return matrix.detach()


def build_optimizers(model: nn.Module, config: Any) -> list[torch.optim.Optimizer]:
    """AdamW with decay on matrices only; with "muon", Muon (arXiv 2502.16982) for the matrices inside the layers.

    Muon's update is scaled to the root mean square of AdamW's, so that both share one learning rate. The rows of ids
    may have another, `config.table_learning_rate`.

    AdamW is one kernel, which a GPU needs to skip a step without the host; on a CPU it takes an eighth of the time.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and (".layers." in name or ".h." in name)]
    inside = {id(p) for p in matrices}
    rate, decay = config.learning_rate, config.weight_decay
    table_rate = rate if config.table_learning_rate is None else config.table_learning_rate
    groups = [
        {"params": [p], "peak": table_rate if name.endswith(_TABLES) else rate, "weight_decay": decay}
        for name, p in model.named_parameters()
        if p.ndim == 2 and id(p) not in inside
    ]
    groups.append({"params": [p for p in model.parameters() if p.ndim != 2], "peak": rate, "weight_decay": 0.0})
    if config.optimizer == "adamw":
        groups.append({"params": matrices, "peak": rate, "weight_decay": decay})
        return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)]
    muon = Muon([{"params": matrices, "peak": rate}], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True), muon]
