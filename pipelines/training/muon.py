"""Muon for matrices and kernels that may be sharded over processes, and that can skip a step by a tensor."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from wvq.tokenizer.distributed import whole_tensor

_TABLES = ("embed_tokens.weight", "wte.weight", "lm_head.weight")  # a row for each id, in Llama and in GPT-2
_TOGETHER = 2**25  # entries of matrices that are orthogonalized at once: 64 MiB of bfloat16


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (arXiv 2502.16982), for kernels of convolutions and for matrices that are sharded (FSDP2) too.

    A kernel (C_out, C_in, h, w) is the matrix (C_out, C_in * h * w) that it multiplies patches by. The update is scaled
    to the root mean square of AdamW's, so that both share one learning rate.

    Matrices of one shape are orthogonalized together: a GPU that is given them one by one waits for the host.

    Momentum is sharded as the matrices are. The orthogonalization is of whole matrices: every process gathers them, in
    the bfloat16 it is computed in, and keeps its shard of the outcome. torch's own would multiply shards: with other
    roundings, and an error for a matrix with fewer rows than processes.

    As torch's fused optimizers it leaves everything as it was where the attribute `found_inf`, a float32 scalar on the
    device, is 1, without asking the device for it.
    """

    found_inf: Tensor | None = None
    _step_supports_amp_scaling = True  # what torch calls that

    def __init__(self, params: Iterable[Any], **options: Any):
        # torch's own would refuse kernels
        super().__init__([{"params": []}], adjust_lr_fn="match_rms_adamw", **options)
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
            for alike in _alike([matrix for matrix in group["params"] if matrix.grad is not None]):
                self._step_together(alike, group)
        return loss

    def _step_together(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        made = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        updates = torch.stack([whole_tensor(self._update(matrix, group)).flatten(1) for matrix in matrices])
        change = _orthogonal(updates, group["ns_coefficients"], group["ns_steps"], group["eps"]).float()
        change *= -0.2 * math.sqrt(max(change.shape[1:])) * group["lr"]
        for matrix, own in zip(matrices, change * made, strict=True):
            own = own.view(matrix.shape).to(matrix.dtype)
            if isinstance(matrix, DTensor):
                own = distribute_tensor(own, matrix.device_mesh, matrix.placements, src_data_rank=None)
            matrix.mul_(1 - group["lr"] * group["weight_decay"] * made).add_(own)

    def _update(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """Momentum with this step's gradient, in bfloat16; where the step is not made it stays as it was."""
        gradient, state = matrix.grad, self.state[matrix]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"]
        if self.found_inf is not None:  # moved towards itself, to the last bit
            gradient = torch.where(self.found_inf > 0, momentum, gradient)
        momentum.lerp_(gradient, 1 - group["momentum"])
        return (gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum).bfloat16()


def _alike(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """The matrices in parts of one shape and type each, of `_TOGETHER` entries or one matrix at most."""
    kinds: dict[Any, list[Tensor]] = {}
    for matrix in matrices:
        kinds.setdefault((len(matrix), matrix.numel(), matrix.dtype), []).append(matrix)
    for kind in kinds.values():
        size = max(1, _TOGETHER // kind[0].numel())
        yield from (kind[start : start + size] for start in range(0, len(kind), size))


def _orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices (n, r, c) bfloat16, roughly U V^T of each one's singular value decomposition, by Newton and Schulz.

    Each step takes the singular values s, at most 1 at first, to a s + b s^3 + c s^5 (arXiv 2502.16982, equation 2).
    """
    a, b, c = coefficients
    if x.shape[1] > x.shape[2]:  # the smaller of both products
        return _orthogonal(x.mT, coefficients, steps, eps).mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def build_optimizers(model: nn.Module, config: Any) -> list[torch.optim.Optimizer]:
    """AdamW with decay on matrices only; with "muon", Muon (arXiv 2502.16982) for the matrices inside the layers.

    Both share one learning rate; the rows of ids may have another, `config.table_learning_rate`.

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
    muon = Muon([{"params": matrices, "peak": rate}], lr=rate, weight_decay=decay)
    return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True), muon]
