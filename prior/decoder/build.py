"""One step of decoding: the next code's logits from the newest tokens and a cache of all before them."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from wvq.tokenizer.errors import InputError

from .any_model import Decoder, ModelDecoder
from .gpt2 import GPT2_MODULES, GPT2Decoder
from .llama import LLAMA_MODULES, LlamaDecoder
from .static import StaticDecoder


def build_decoder(
    model: PreTrainedModel, num_codes: int, rows: int, dtype: torch.dtype | None = None, scored: int | None = None
) -> Decoder:
    """The fastest decoder that computes what the model's own forward does.

    Args:
        model: a causal language model of transformers. One that was wrapped, hooked, quantized or given adapters is
            called, not read.
        num_codes: K; logits of the ids from K on are left out.
        rows: sequences at once, times the tokens of each in a step, for which it should be fastest.
        dtype: of matrices and cache, such as torch.bfloat16; the model's by default. torch.int8 is of the matrices
            alone, a scale for each output channel, beside bfloat16. Norms and residuals stay float32.
        scored: rows at once whose logits are wanted, half of them where those are mixed by guidance; all by default.

    Raises:
        InputError: for a dtype where the model has to be called.
    """
    if kind := readable_as(model):
        return kind(model, num_codes, rows, dtype or model.dtype, scored or rows)
    if dtype not in (None, model.dtype):
        raise InputError(f"dtype is {dtype}; only a plain Llama or GPT-2 can be sampled in another than its own")
    return ModelDecoder(model, num_codes)


def readable_as(model: PreTrainedModel) -> Callable[[Any, int, int, torch.dtype, int], StaticDecoder] | None:
    """The decoder that reads the matrices of such a model; None if it has to be called."""
    kinds = {type(module) for module in model.modules()}
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None
    if isinstance(model, GPT2LMHeadModel) and kinds <= GPT2_MODULES:
        return GPT2Decoder
    if isinstance(model, LlamaForCausalLM) and kinds <= LLAMA_MODULES:
        grouped = model.config.num_key_value_heads != model.config.num_attention_heads
        if not grouped and not model.config.attention_bias and not model.config.mlp_bias:
            return LlamaDecoder
    return None
