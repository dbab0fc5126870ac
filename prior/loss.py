"""The training loss of a prior, without ever holding the logits of a whole batch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from .code_geometry import CodeGeometry
from .next_scale import next_scale_inputs, scales_of
from .order.sequences import input_sequence, raster_orders
from .order.target_positions import TargetPositions
from .sampled_softmax import Sample, sampled_cross_entropy

_BLOCK_ENTRIES = 2**24  # logits held at once: 64 MiB of float32
_CPU_BLOCK_ENTRIES = 2**22  # there a pass over what leaves the cache takes longer than the products: 1.5 times as fast


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softmax(hidden @ weight.T), its gradients taken block by block in the forward pass.

    The gradient by the logits is softmax minus target, known as soon as the logits are: so each block is multiplied
    out, used and forgotten, with the same three products as an output layer and a loss one after the other.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, differentiable: bool) -> Tensor:
        count, vocabulary = len(hidden), len(weight)
        wanted_hidden, wanted_weight = (differentiable and wanted for wanted in ctx.needs_input_grad[:2])
        total = torch.zeros((), device=hidden.device)
        by_hidden = torch.empty_like(hidden) if wanted_hidden else None
        by_weight = torch.zeros(weight.shape, device=weight.device) if wanted_weight else None
        matrix = weight.to(hidden.dtype)
        entries = _CPU_BLOCK_ENTRIES if hidden.device.type == "cpu" else _BLOCK_ENTRIES
        rows = max(1, entries // vocabulary)
        for start in range(0, count, rows):
            block = slice(start, start + rows)
            logits = (hidden[block] @ matrix.mT).float()
            total += F.cross_entropy(logits, targets[block], label_smoothing=smoothing, reduction="sum")
            if by_hidden is None and by_weight is None:
                continue
            slope = logits.softmax(dim=-1) - smoothing / vocabulary
            slope.scatter_add_(1, targets[block, None], slope.new_full((len(slope), 1), smoothing - 1))
            slope = (slope / count).to(hidden.dtype)
            if by_hidden is not None:
                by_hidden[block] = slope @ matrix
            if by_weight is not None:
                by_weight += (slope.mT @ hidden[block]).float()
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.weight_dtype = weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_hidden, by_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if by_hidden is None else by_hidden * scale.to(by_hidden.dtype),
            None if by_weight is None else (by_weight * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, in nats, of targets under softmax(hidden @ weight.T); at most 64 MiB of logits at once.

    Args:
        hidden: (N, C), of any floating-point type; the products are taken in it, everything else in float32.
        weight: (V, C).
        targets: (N,) int64 in [0, V).
        label_smoothing: share of the target probability spread over all V, in [0, 1).

    Returns:
        A float32 scalar, differentiable once by hidden and weight.
    """
    # A weight needs a gradient, for all that `forward` can see, under no_grad as well.
    arguments = (hidden, weight, targets, label_smoothing, torch.is_grad_enabled())
    return _LinearCrossEntropy.apply(*arguments)  # pyright: ignore[reportReturnType]


class _NothingKept(DynamicCache):
    """A cache that stays empty.

    Where there is none, transformers looks through the positions for several sequences in one row, and waits for a GPU
    to know whether there are any; a graph that is compiled would carry the mask for them.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states


class TokenLoss(nn.Module):
    """A prior as what is trained: from codes and classes to the mean cross-entropy of each code after those before,
    or of a prior with scales after those of coarser scales.

    One module, so that data parallel wrappers see a forward pass of the whole model.

    Args:
        prior: a causal language model of transformers with an output layer without bias.
        num_codes: K.
        label_smoothing: share of the target probability spread over all ids.
        geometry: what is added to the prior's two tables while it is trained, if anything.
        target_positions: what tells a raster prior the next position while it is trained in other orders, if it is.
    """

    def __init__(
        self,
        prior: PreTrainedModel,
        num_codes: int,
        label_smoothing: float = 0.0,
        geometry: CodeGeometry | None = None,
        target_positions: TargetPositions | None = None,
    ):
        super().__init__()
        self.prior, self.num_codes, self.label_smoothing, self.geometry = prior, num_codes, label_smoothing, geometry
        self.target_positions = target_positions
        self._no_split_modules = prior._no_split_modules  # the layers, each a unit of FSDP
        self._ddp_params_and_buffers_to_ignore = ["geometry.features"]  # DDP would send them around in every step

    def forward(
        self, codes: Tensor, labels: Tensor, orders: Tensor | None = None, sample: Sample | None = None
    ) -> Tensor:
        """Loss in nats per token of codes (B, T) int64 under labels (B,) in [0, classes], the last the null class.

        With orders (B, T), permutations of the positions, each code is predicted after those before it in its order.
        They are for a prior of free order, and for one with target positions; without them it is raster order.

        With a sample of `Proposal.draw` the loss is estimated from its ids, without label smoothing.
        """
        orders = raster_orders(codes) if orders is None else orders.to(codes.device, non_blocking=True)
        inputs, predicted = input_sequence(self.prior.config, self.num_codes, codes, labels, orders)
        embedding, head = self.prior.get_input_embeddings(), self.prior.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        embedded = embedding(inputs)
        if self.geometry is not None:
            embedded = embedded + self.geometry.input_part(inputs)
        scales, places = scales_of(self.prior), {}
        if self.target_positions is not None:
            embedded = embedded + self.target_positions.input_part(orders)
            places = {"position_ids": self.target_positions.own_positions(orders)}
        given = next_scale_inputs(embedded, scales) if scales else {"inputs_embeds": embedded}
        body = self.prior.base_model(**given, **places, past_key_values=_NothingKept(), use_cache=False)
        hidden, targets = body.last_hidden_state[:, predicted].flatten(0, 1), codes.gather(1, orders).flatten()
        if sample is None:
            smoothing = self.label_smoothing if self.training else 0.0
            table = head.weight if self.geometry is None else head.weight + self.geometry.output_part()
            return linear_cross_entropy(hidden, table, targets, smoothing)
        drawn, log_times = (part.to(codes.device, non_blocking=True) for part in sample)
        ids = torch.cat([targets, drawn])
        rows = F.embedding(ids, head.weight)
        if self.geometry is not None:
            rows = rows + self.geometry.output_part(ids)
        own, others = rows.split([len(targets), len(drawn)])
        return sampled_cross_entropy(hidden, own, others, log_times, targets[:, None] == drawn)
