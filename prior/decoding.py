"""One step of decoding: the next code's logits from the newest tokens and a cache of all before them.

A plain Llama or GPT-2 of transformers is read as what it is, a list of matrices: the products of its own forward, fused
where they share an input, on a cache that is allocated once. Any other causal model goes through its own forward.

Legend of shapes: R rows, n new positions, T positions in all, H heads, d channels of a head, C = H * d.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation, SiLUActivation
from transformers.cache_utils import DynamicCache
from transformers.models.gpt2 import modeling_gpt2 as gpt2
from transformers.models.llama import modeling_llama as llama
from transformers.pytorch_utils import Conv1D

from wvq.tokenizer.errors import InputError

from .packing import packed_linear

_LLAMA_PARTS = {
    LlamaForCausalLM, llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP,
    llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding, nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation,
}  # fmt: skip
_GPT2_PARTS = {
    GPT2LMHeadModel, gpt2.GPT2Model, gpt2.GPT2Block, gpt2.GPT2Attention, gpt2.GPT2MLP, Conv1D, nn.LayerNorm, nn.Dropout,
    nn.Linear, nn.Embedding, nn.ModuleList, NewGELUActivation,
}  # fmt: skip


PAGE = 64


class Decoder(Protocol):
    """What the sampler needs of a model."""

    def new_cache(self, rows: int) -> Any:
        """An empty cache for that many sequences."""
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
        dtype: of matrices and cache, such as torch.bfloat16; the model's by default. Norms and residuals stay float32.

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

    def new_cache(self, rows: int) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def __call__(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return output.logits[:, -1, : self.num_codes].float()


class KeyValueCache:
    """Keys and values of each layer in pages of `PAGE` positions, allocated as they are reached and never moved.

    A page is read whole: a product over contiguous memory is several times faster than one over the filled part.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, like: Tensor):
        self.heads, self.rows, self.like = config.num_attention_heads, rows, like
        self.channels = config.hidden_size // self.heads
        self.pages: list[list[Tensor]] = [[] for _ in range(config.num_hidden_layers)]  # (2, R * H, PAGE, d) each
        self.start, self.end = 0, 0

    def reserve(self, n: int) -> Tensor:
        """Make room for n positions in all layers; returns them, (n,)."""
        self.start, self.end = self.end, self.end + n
        missing = -(-self.end // PAGE) - len(self.pages[0])
        for pages in self.pages:
            size = (2, self.rows * self.heads, PAGE, self.channels)
            pages += [self.like.new_zeros(size) for _ in range(missing)]
        places = torch.arange(len(self.pages[0]) * PAGE, device=self.like.device)
        new = places[self.start : self.end]
        self.future = places > new[:, None]  # (n, T), T in whole pages
        return new

    def attend(self, layer: int, qkv: Tensor, scale: float) -> Tensor:
        """Store the reserved positions; attend from each to all up to it: (R, n, 3, H, d) -> (R * n, C)."""
        rows, n, _, heads, channels = qkv.shape
        qkv = qkv.permute(2, 0, 3, 1, 4).reshape(3, rows * heads, n, channels)
        self._store(self.pages[layer], qkv[1:])
        # Not scaled_dot_product_attention: for a single query its last bits depend on the number of threads.
        scores = torch.cat([torch.bmm(qkv[0], page[0].mT) for page in self.pages[layer]], dim=-1)
        weights = (scores * scale).masked_fill_(self.future, float("-inf")).softmax(dim=-1)
        attended = torch.zeros_like(qkv[0])
        for part, page in zip(weights.split(PAGE, dim=-1), self.pages[layer], strict=True):
            attended = torch.baddbmm(attended, part, page[1])
        return attended.view(rows, heads, n, channels).transpose(1, 2).reshape(rows * n, heads * channels)

    def _store(self, pages: list[Tensor], kv: Tensor) -> None:
        for number in range(self.start // PAGE, len(pages)):
            begin, end = max(self.start, number * PAGE), min(self.end, (number + 1) * PAGE)
            part = kv[:, :, begin - self.start : end - self.start]
            pages[number][:, :, begin - number * PAGE : end - number * PAGE] = part


class LlamaDecoder:
    """A plain `LlamaForCausalLM`."""

    def __init__(self, model: LlamaForCausalLM, num_codes: int, rows: int, dtype: torch.dtype):
        self.config, self.dtype, self.rotary = model.config, dtype, model.model.rotary_emb
        self.embedding, self.norm = model.model.embed_tokens.weight, model.model.norm

        def product(*weights: Tensor) -> Callable[[Tensor], Tensor]:
            return packed_linear(torch.cat(weights).to(dtype), None, rows)

        self.output = product(model.lm_head.weight[:num_codes])
        layers: Any = model.model.layers
        self.layers: list[Any] = [
            (
                layer.input_layernorm,
                product(*(part.weight for part in (attention.q_proj, attention.k_proj, attention.v_proj))),
                attention.scaling,
                product(attention.o_proj.weight),
                layer.post_attention_layernorm,
                product(mlp.gate_proj.weight, mlp.up_proj.weight),
                product(mlp.down_proj.weight),
            )
            for layer in layers
            for attention, mlp in [(layer.self_attn, layer.mlp)]
        ]

    def new_cache(self, rows: int) -> KeyValueCache:
        return KeyValueCache(self.config, rows, self.embedding.new_empty(0, dtype=self.dtype))

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        rows, n = tokens.shape
        places = cache.reserve(n)
        x = F.embedding(tokens.flatten(), self.embedding).float()  # (R * n, C)
        cos, sin = self._rotation(x, places)
        for index, (norm1, qkv, scale, project, norm2, gate_up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x, norm1)).view(rows, n, 3, cache.heads, -1)
            turned = heads[:, :, :2]  # queries and keys; values are not rotated
            turned.copy_(torch.addcmul(turned * cos, turned.roll(turned.shape[-1] // 2, dims=-1), sin))
            x = x + project(cache.attend(index, heads, scale))
            gate, up = gate_up(self._normed(x, norm2)).chunk(2, dim=-1)
            x = x + down(F.silu(gate) * up)
        return self.output(self._normed(x.view(rows, n, -1)[:, -1], self.norm)).float()

    def _normed(self, x: Tensor, norm: llama.LlamaRMSNorm) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight.float(), norm.variance_epsilon).to(self.dtype)

    def _rotation(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine (n, 1, 1, d) for v * cos + roll(v, d / 2) * sin."""
        cos, sin = (part[0, :, None, None] for part in self.rotary(x, places[None]))
        first, second = sin.chunk(2, dim=-1)
        return cos.to(self.dtype), torch.cat([-first, second], dim=-1).to(self.dtype)


class GPT2Decoder:
    """A plain `GPT2LMHeadModel`, whose matrices are stored input first."""

    def __init__(self, model: GPT2LMHeadModel, num_codes: int, rows: int, dtype: torch.dtype):
        body: Any = model.transformer
        self.config, self.dtype = model.config, dtype
        self.embedding, self.positions, self.norm = body.wte.weight, body.wpe.weight, body.ln_f

        def product(part: Conv1D) -> Callable[[Tensor], Tensor]:
            return packed_linear(part.weight.mT.to(dtype), part.bias.to(dtype), rows)

        self.output = packed_linear(model.lm_head.weight[:num_codes].to(dtype), None, rows)
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

    def new_cache(self, rows: int) -> KeyValueCache:
        return KeyValueCache(self.config, rows, self.embedding.new_empty(0, dtype=self.dtype))

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        rows, n = tokens.shape
        places = cache.reserve(n)
        x = (F.embedding(tokens, self.embedding) + self.positions[places]).float().flatten(0, 1)  # (R * n, C)
        for index, (norm1, qkv, scale, project, norm2, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x, norm1)).view(rows, n, 3, cache.heads, -1)
            x = x + project(cache.attend(index, heads, scale))
            x = x + down(F.gelu(up(self._normed(x, norm2)), approximate="tanh"))
        return self.output(self._normed(x.view(rows, n, -1)[:, -1], self.norm)).float()

    def _normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(self.dtype)
