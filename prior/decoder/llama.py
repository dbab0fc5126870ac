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
from .packed_linear import GatedLinear, PackedLinear, packed_linear
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

    def __init__(self, model: LlamaForCausalLM, num_codes: int, rows: int, dtype: torch.dtype, scored: int):
        self.dtype = torch.bfloat16 if dtype == torch.int8 else dtype
        self.embedding = model.model.embed_tokens.weight
        super().__init__(model.config, self.embedding.new_empty(0, dtype=self.dtype))
        self.rotary: Any = model.model.rotary_emb
        self.rotations = self._rotations(model.config.max_position_embeddings)
        channels, heads = model.config.hidden_size, model.config.num_attention_heads
        self.floor = torch.tensor(math.sqrt(channels * model.config.rms_norm_eps), device=self.embedding.device)

        def product(weight: Tensor) -> PackedLinear:
            return packed_linear(weight, None, rows, dtype)

        def normed(weight: Tensor, norm: Any) -> Tensor:
            return weight.float() * (norm.weight.float() * math.sqrt(channels))

        def paired(weight: Tensor) -> Tensor:
            return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

        self.output = packed_linear(normed(model.lm_head.weight[:num_codes], model.model.norm), None, scored, dtype)
        layers: Any = model.model.layers
        self.layers: list[Any] = []
        for layer in layers:
            attention, mlp, norm = layer.self_attn, layer.mlp, layer.post_attention_layernorm
            queries = attention.q_proj.weight.float() * attention.scaling
            projections = paired(queries), paired(attention.k_proj.weight), attention.v_proj.weight
            self.layers.append(
                (
                    product(normed(torch.cat(projections), layer.input_layernorm)),
                    product(attention.o_proj.weight),
                    GatedLinear(normed(mlp.gate_proj.weight, norm), normed(mlp.up_proj.weight, norm), rows, dtype),
                    product(mlp.down_proj.weight),
                )
            )

    def new_cache(self, rows: int, length: int, one_by_one: bool = True) -> StaticCache:
        if length > len(self.rotations):
            self.rotations = self._rotations(length)
            self.spare.clear()  # whose graphs read those of before
        return super().new_cache(rows, length, one_by_one)

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
        rotations = self.rotations[places if positions is None else positions]
        rotations = rotations.view(-1, n, 3, 1, rotations.shape[-1])
        x = F.embedding(tokens.flatten(), self.embedding).float()  # (R * n, C)
        for index, (qkv, project, gated, down) in enumerate(self.layers):
            heads = qkv(self._normed(x).to(self.dtype)).float().view(rows, n, 3, cache.heads, -1, 2)
            torch.view_as_complex(heads).mul_(rotations)  # in place
            x = project.plus(cache.attend(index, heads.flatten(-2), places, mask), x)
            x = down.plus(gated(self._normed(x).to(self.dtype)), x)
        return self._normed(x.view(rows, n, -1)[:, -num_logits:])

    def _normed(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self.floor)

    def _rotations(self, count: int) -> Tensor:
        """Complex numbers (count, 3, d / 2) by which queries, keys and values of the first positions are multiplied;
        those of values are 1."""
        positions = torch.arange(count, device=self.embedding.device)[None]
        cos, sin = self.rotary(self.embedding.new_empty(0, dtype=torch.float32), positions)
        rotated = torch.complex(cos, sin)[0, :, : cos.shape[-1] // 2]
        return torch.stack([rotated, rotated, torch.ones_like(rotated)], dim=1)
