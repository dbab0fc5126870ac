"""A plain Llama of transformers, read as a list of matrices."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from .cache import StaticCache
from .packed_linear import PackedLinear, packed_linear
from .static import StaticDecoder

LLAMA_MODULES = {
    LlamaForCausalLM, llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP,
    llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding, nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation,
}  # fmt: skip
"""What a plain Llama is made of; a model with anything else in it is called, not read."""


class LlamaDecoder(StaticDecoder):
    """A plain `LlamaForCausalLM`.

    Its norm, x / sqrt(mean(x^2) + eps) * weight, is x / hypot(|x|, sqrt(C * eps)) here, and weight * sqrt(C) is part of
    the matrix that follows. Channels that are rotated together lie side by side, so that they are a complex number.
    """

    def __init__(self, model: LlamaForCausalLM, num_codes: int, rows: int, dtype: torch.dtype):
        self.dtype = torch.bfloat16 if dtype == torch.int8 else dtype
        self.embedding = model.model.embed_tokens.weight
        super().__init__(model.config, self.embedding.new_empty(0, dtype=self.dtype))
        self.rotary: Any = model.model.rotary_emb
        self.rotations = self._rotations(model.config.max_position_embeddings)
        channels, heads = model.config.hidden_size, model.config.num_attention_heads
        self.floor = torch.tensor(math.sqrt(channels * model.config.rms_norm_eps), device=self.embedding.device)

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

    def new_cache(self, rows: int, length: int) -> StaticCache:
        if length > len(self.rotations):
            self.rotations = self._rotations(length)
            self.spare.clear()  # whose graphs read those of before
        return super().new_cache(rows, length)

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
        rotations = self.rotations[places if positions is None else positions].view(
            -1, n, 1, 1, self.rotations.shape[-1]
        )
        x = F.embedding(tokens.flatten(), self.embedding).float()  # (R * n, C)
        for index, (qkv, scale, project, gate, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x)).float().view(rows, n, 3, cache.heads, -1)
            pairs = torch.view_as_complex(heads[:, :, :2].unflatten(-1, (-1, 2)))
            pairs *= rotations  # in place: queries and keys are rotated, values are not
            x = project.plus(cache.attend(index, heads, places, mask, scale), x)
            normed = self._normed(x)
            x = down.plus(up.times(normed, gate.activated(normed, "silu")), x)
        return self.output(self._normed(x.view(rows, n, -1)[:, -num_logits:])).float()

    def _normed(self, x: Tensor) -> Tensor:
        return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self.floor)).to(self.dtype)

    def _rotations(self, count: int) -> Tensor:
        """Complex numbers (count, d / 2) by which queries and keys of the first positions are multiplied."""
        positions = torch.arange(count, device=self.embedding.device)[None]
        cos, sin = self.rotary(self.embedding.new_empty(0, dtype=torch.float32), positions)
        return torch.complex(cos, sin)[0, :, : cos.shape[-1] // 2]
