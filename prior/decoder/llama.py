"""A plain Llama of transformers, read as a list of matrices."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from .cache import FixedPointCache, KeyValueCache, empty_cache
from .packed_linear import PackedLinear, packed_linear

LLAMA_MODULES = {
    LlamaForCausalLM, llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP,
    llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding, nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation,
}  # fmt: skip
"""What a plain Llama is made of; a model with anything else in it is called, not read."""


class LlamaDecoder:
    """A plain `LlamaForCausalLM`.

    Its norm, x / sqrt(mean(x^2) + eps) * weight, is x / hypot(|x|, sqrt(C * eps)) here, and weight * sqrt(C) is part of
    the matrix that follows. Channels that are rotated together lie side by side, so that they are a complex number.
    """

    def __init__(self, model: LlamaForCausalLM, num_codes: int, rows: int, dtype: torch.dtype):
        self.config, self.rotary = model.config, model.model.rotary_emb
        self.dtype = torch.bfloat16 if dtype == torch.int8 else dtype
        self.embedding = model.model.embed_tokens.weight
        self.rotations = self.embedding.new_empty(0, dtype=torch.complex64)  # of the first positions, (T, 1, 1, d / 2)
        channels, heads = self.config.hidden_size, self.config.num_attention_heads
        self.floor = torch.tensor(math.sqrt(channels * self.config.rms_norm_eps), device=self.embedding.device)

        def product(*weights: Tensor, norm: Any = None) -> PackedLinear:
            weight = torch.cat(weights).float()  # a copy, also of one
            if norm is not None:
                weight *= norm.weight.float() * math.sqrt(channels)
            return packed_linear(weight, None, rows, dtype)

        def paired(weight: Tensor) -> Tensor:
            return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

        self.output = product(model.lm_head.weight[:num_codes], norm=model.model.norm)
        layers: Any = model.model.layers
        self.layers: list[Any] = []
        for layer in layers:
            attention, mlp, norm = layer.self_attn, layer.mlp, layer.post_attention_layernorm
            projections = paired(attention.q_proj.weight), paired(attention.k_proj.weight), attention.v_proj.weight
            self.layers.append(
                (
                    product(*projections, norm=layer.input_layernorm),
                    attention.scaling,
                    product(attention.o_proj.weight),
                    product(mlp.gate_proj.weight, norm=norm),
                    product(mlp.up_proj.weight, norm=norm),
                    product(mlp.down_proj.weight),
                )
            )

    def new_cache(self, rows: int, length: int) -> FixedPointCache | KeyValueCache:
        return empty_cache(self.config, rows, length, self.embedding.new_empty(0, dtype=self.dtype))

    def __call__(self, tokens: Tensor, cache: Any, last: int = 1) -> Tensor:
        rows, n = tokens.shape
        places = cache.reserve(n)
        x = F.embedding(tokens.flatten(), self.embedding).float()  # (R * n, C)
        if len(self.rotations) < cache.end:
            self.rotations = self._rotations(x, cache.capacity)
        rotations = self.rotations[places]
        for index, (qkv, scale, project, gate, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x)).float().view(rows, n, 3, cache.heads, -1)
            pairs = torch.view_as_complex(heads[:, :, :2].unflatten(-1, (-1, 2)))
            pairs *= rotations  # in place: queries and keys are rotated, values are not
            x = project.plus(cache.attend(index, heads, scale), x)
            normed = self._normed(x)
            x = down.plus(up.times(normed, gate.activated(normed, "silu")), x)
        return self.output(self._normed(x.view(rows, n, -1)[:, -last:].flatten(0, 1))).float()

    def _normed(self, x: Tensor) -> Tensor:
        return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self.floor)).to(self.dtype)

    def _rotations(self, x: Tensor, count: int) -> Tensor:
        """Complex numbers (count, 1, 1, d / 2) by which queries and keys of the first positions are multiplied."""
        cos, sin = self.rotary(x, torch.arange(count, device=x.device)[None])
        return torch.complex(cos, sin)[0, :, None, None, : cos.shape[-1] // 2]
