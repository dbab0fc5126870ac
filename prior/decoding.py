"""One step of decoding: the next code's logits from the newest tokens and a cache of all before them.

A plain Llama or GPT-2 of transformers is read as what it is, a list of matrices: the products of its own forward, fused
where they share an input, on a cache that is allocated once. Any other causal model goes through its own forward.

Legend of shapes: R rows, n new positions, T positions in all, H heads, d channels of a head, C = H * d.
"""

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel
from transformers.activations import NewGELUActivation, SiLUActivation
from transformers.cache_utils import DynamicCache
from transformers.models.gpt2 import modeling_gpt2 as gpt2
from transformers.models.llama import modeling_llama as llama
from transformers.pytorch_utils import Conv1D

from wvq.tokenizer.errors import InputError

from .cache import FixedPointCache, KeyValueCache, empty_cache
from .packing import PackedLinear, packed_linear

_LLAMA_PARTS = {
    LlamaForCausalLM, llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP,
    llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding, nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation,
}  # fmt: skip
_GPT2_PARTS = {
    GPT2LMHeadModel, gpt2.GPT2Model, gpt2.GPT2Block, gpt2.GPT2Attention, gpt2.GPT2MLP, Conv1D, nn.LayerNorm, nn.Dropout,
    nn.Linear, nn.Embedding, nn.ModuleList, NewGELUActivation,
}  # fmt: skip


class Decoder(Protocol):
    """What the sampler needs of a model."""

    def new_cache(self, rows: int, length: int) -> Any:
        """An empty cache for that many sequences of up to that many positions."""
        ...

    def __call__(self, tokens: Tensor, cache: Any) -> Tensor:
        """Logits (R, K), float32, of what follows tokens (R, n), which themselves follow what the cache has seen."""
        ...


def build_decoder(model: PreTrainedModel, num_codes: int, rows: int, dtype: torch.dtype | None = None) -> Decoder:
    """The fastest decoder that computes what the model's own forward does.

    Args:
        model: a causal language model of transformers. One that was wrapped, hooked, quantized or given adapters is
            called, not read.
        num_codes: K; logits of the ids from K on are left out.
        rows: sequences at once for which it should be fastest.
        dtype: of matrices and cache, such as torch.bfloat16; the model's by default. torch.int8 is of the matrices
            alone, a scale for each output channel, beside bfloat16. Norms and residuals stay float32.

    Raises:
        InputError: for a dtype where the model has to be called.
    """
    parts = {type(module) for module in model.modules()}
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if not hooked and isinstance(model, LlamaForCausalLM) and parts <= _LLAMA_PARTS:
        grouped = model.config.num_key_value_heads != model.config.num_attention_heads
        if not grouped and not model.config.attention_bias and not model.config.mlp_bias:
            return LlamaDecoder(model, num_codes, rows, dtype or model.dtype)
    if not hooked and isinstance(model, GPT2LMHeadModel) and parts <= _GPT2_PARTS:
        return GPT2Decoder(model, num_codes, rows, dtype or model.dtype)
    if dtype not in (None, model.dtype):
        raise InputError(f"dtype is {dtype}; only a plain Llama or GPT-2 can be sampled in another than its own")
    return ModelDecoder(model, num_codes)


class ModelDecoder:
    """Any causal language model, through its own forward."""

    def __init__(self, model: PreTrainedModel, num_codes: int):
        self.model, self.num_codes = model, num_codes

    def new_cache(self, rows: int, length: int) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def __call__(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return output.logits[:, -1, : self.num_codes].float()


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

    def __call__(self, tokens: Tensor, cache: FixedPointCache | KeyValueCache) -> Tensor:
        rows, n = tokens.shape
        places = cache.reserve(n)
        x = F.embedding(tokens.flatten(), self.embedding).float()  # (R * n, C)
        if len(self.rotations) < cache.end:
            self.rotations = self._rotations(x, cache.room)
        rotations = self.rotations[places]
        for index, (qkv, scale, project, gate, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x)).float().view(rows, n, 3, cache.heads, -1)
            pairs = torch.view_as_complex(heads[:, :, :2].unflatten(-1, (-1, 2)))
            pairs *= rotations  # in place: queries and keys are rotated, values are not
            x = project.plus(cache.attend(index, heads, scale), x)
            normed = self._normed(x)
            x = down.plus(up.times(normed, gate.activated(normed, "silu")), x)
        return self.output(self._normed(x.view(rows, n, -1)[:, -1])).float()

    def _normed(self, x: Tensor) -> Tensor:
        return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self.floor)).to(self.dtype)

    def _rotations(self, x: Tensor, count: int) -> Tensor:
        """Complex numbers (count, 1, 1, d / 2) by which queries and keys of the first positions are multiplied."""
        cos, sin = self.rotary(x, torch.arange(count, device=x.device)[None])
        return torch.complex(cos, sin)[0, :, None, None, : cos.shape[-1] // 2]


class GPT2Decoder:
    """A plain `GPT2LMHeadModel`, whose matrices are stored input first."""

    def __init__(self, model: GPT2LMHeadModel, num_codes: int, rows: int, dtype: torch.dtype):
        body: Any = model.transformer
        self.config, self.dtype = model.config, torch.bfloat16 if dtype == torch.int8 else dtype
        self.embedding, self.positions, self.norm = body.wte.weight, body.wpe.weight, body.ln_f

        def product(part: Conv1D) -> PackedLinear:
            return packed_linear(part.weight.mT, part.bias, rows, dtype)

        self.output = packed_linear(model.lm_head.weight[:num_codes], None, rows, dtype)
        self.layers: list[Any] = [
            (
                block.ln_1,
                product(block.attn.c_attn),
                block.attn.scaling,
                product(block.attn.c_proj),
                block.ln_2,
                product(block.mlp.c_fc),
                product(block.mlp.c_proj),
            )
            for block in body.h
        ]

    def new_cache(self, rows: int, length: int) -> FixedPointCache | KeyValueCache:
        return empty_cache(self.config, rows, length, self.embedding.new_empty(0, dtype=self.dtype))

    def __call__(self, tokens: Tensor, cache: FixedPointCache | KeyValueCache) -> Tensor:
        rows, n = tokens.shape
        places = cache.reserve(n)
        x = (F.embedding(tokens, self.embedding) + self.positions[places]).float().flatten(0, 1)  # (R * n, C)
        for index, (norm1, qkv, scale, project, norm2, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x, norm1)).view(rows, n, 3, cache.heads, -1)
            x = project.plus(cache.attend(index, heads, scale), x)
            x = down.plus(up.activated(self._normed(x, norm2), "gelu_tanh"), x)
        return self.output(self._normed(x.view(rows, n, -1)[:, -1], self.norm)).float()

    def _normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(self.dtype)
