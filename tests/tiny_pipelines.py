"""A pipeline of toy size, with random weights."""

import dataclasses
from typing import Any

import torch
from transformers import LlamaForCausalLM

from wvq.pipelines import ClassConditionalPipeline
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.tokenizer import TokenizerConfig, VQTokenizer

NAMES = ("Sneaker", "Sandal", "Bag")


def tiny_prior(num_classes: int = 3, num_codes: int = 32, num_tokens: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(1)
    size = vars(PriorSize(hidden_size=16, num_layers=1, num_heads=2))
    prior: Any = build_prior(PriorConfig(**size, num_codes=num_codes, num_tokens=num_tokens, num_classes=num_classes))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter *= 12 if parameter.ndim == 2 else 1  # else all classes are nearly uniform
    return prior


TOKENIZER = TokenizerConfig(
    image_size=16, patch_size=2, base_channels=8, channel_multipliers=(1, 1), num_blocks=1, latent_channels=8,
    codebook_size=32, codebook_dim=4, quantizer_options={"init_std": 1.0},
)  # fmt: skip


def tiny_tokenizer(seed: int = 0, **changes) -> VQTokenizer:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return VQTokenizer(dataclasses.replace(TOKENIZER, **changes))


def tiny_pipeline(num_classes: int = 3, channels: int = 3, image_size: int = 16) -> Any:
    tokenizer = tiny_tokenizer(channels=channels, image_size=image_size)
    prior = tiny_prior(num_classes, num_tokens=(image_size // 4) ** 2)
    prior.config.tokenizer_fingerprint = tokenizer.fingerprint
    pipeline = ClassConditionalPipeline(tokenizer, prior, NAMES[:num_classes])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
