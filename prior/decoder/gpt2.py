"""A plain GPT-2 of transformers, read as a list of matrices."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.activations import NewGELUActivation
from transformers.models.gpt2 import modeling_gpt2 as gpt2
from transformers.pytorch_utils import Conv1D

from .cache import StaticCache
from .packed_linear import PackedLinear, packed_linear
from .static import StaticDecoder

GPT2_MODULES = {
    GPT2LMHeadModel, gpt2.GPT2Model, gpt2.GPT2Block, gpt2.GPT2Attention, gpt2.GPT2MLP, Conv1D, nn.LayerNorm, nn.Dropout,
    nn.Linear, nn.Embedding, nn.ModuleList, NewGELUActivation,
}  # fmt: skip
"""What a plain GPT-2 is made of; a model with anything else in it is called, not read."""


class GPT2Decoder(StaticDecoder):
    """A plain `GPT2LMHeadModel`, whose matrices are stored input first."""

    def __init__(self, model: GPT2LMHeadModel, num_codes: int, rows: int, dtype: torch.dtype, scored: int):
        body: Any = model.transformer
        self.dtype = torch.bfloat16 if dtype == torch.int8 else dtype
        self.embedding, self.positions, self.norm = body.wte.weight, body.wpe.weight, body.ln_f
        super().__init__(model.config, self.embedding.new_empty(0, dtype=self.dtype))

        def product(layer: Conv1D) -> PackedLinear:
            return packed_linear(layer.weight.mT, layer.bias, rows, dtype)

        def scaled(layer: Conv1D, scaling: float) -> PackedLinear:
            scales = layer.bias.new_ones(layer.bias.shape, dtype=torch.float32)
            scales[: len(scales) // 3] = scaling  # of the queries
            return packed_linear((layer.weight.float() * scales).mT, layer.bias.float() * scales, rows, dtype)

        self.output = packed_linear(model.lm_head.weight[:num_codes], None, scored, dtype)
        self.layers: list[Any] = [
            (
                block.ln_1,
                scaled(block.attn.c_attn, block.attn.scaling),
                product(block.attn.c_proj),
                block.ln_2,
                product(block.mlp.c_fc),
                product(block.mlp.c_proj),
            )
            for block in body.h
        ]

    def step(
        self,
        tokens: Tensor,
        places: Tensor,
        cache: StaticCache,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        num_logits: int = 1,
    ) -> Tensor:
        rows, n = tokens.shape
        mask = cache.mask(places, visible)
        x = F.embedding(tokens, self.embedding) + self.positions[places if positions is None else positions]
        x = x.float().flatten(0, 1)  # (R * n, C)
        for index, (norm1, qkv, project, norm2, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x, norm1).to(self.dtype)).view(rows, n, 3, cache.heads, -1)
            x = project.plus(cache.attend(index, heads, places, mask), x)
            x = down.plus(up.activated(self._normed(x, norm2).to(self.dtype), "gelu_tanh"), x)
        return self._normed(x.view(rows, n, -1)[:, -num_logits:], self.norm)

    def _normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
