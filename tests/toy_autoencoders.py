"""Autoencoders of toy size in folders, as diffusers and we save them: what a quantizer is transplanted into."""

from pathlib import Path
from typing import Any

import torch

from wvq.tokenizer import TokenizerConfig, VQTokenizer

_BLOCKS: dict[str, Any] = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "latent_channels": 4}
_BLOCKS |= {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "sample_size": 28,
}
_LEVELS = {"block_out_channels": (8, 8, 8), "layers_per_block": (1, 1, 1), "qkv_multiscales": ((), (), ())}
_DC: dict[str, Any] = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in _LEVELS.items()}
_TINY: dict[str, Any] = {
    f"{half}_block_out_channels": (8, 8, 8) for half in ("encoder", "decoder")
} | {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": _BLOCKS | {"scaling_factor": 2.0, "shift_factor": 0.1},
    "VQModel": _BLOCKS | {"num_vq_embeddings": 16, "vq_embed_dim": 6, "scaling_factor": 1.5},
    "AutoencoderDC": {**_DC, "latent_channels": 4, "attention_head_dim": 4, "scaling_factor": 0.5},
    "AutoencoderTiny": {**_TINY, "latent_channels": 4},
    "VQTokenizer": {
        "image_size": 28, "patch_size": 2, "base_channels": 8, "channel_multipliers": (1, 1), "num_blocks": 1,
        "latent_channels": 8, "codebook_size": 32, "codebook_dim": 6,
    },
}  # fmt: skip
"""Of each class, for images of 28 x 28 pixels and 49 latents."""


def toy_autoencoder(name: str, channels: int = 1) -> Any:
    """The network itself, with random weights, in eval mode."""
    torch.manual_seed(0)
    if name == "VQTokenizer":
        return VQTokenizer(TokenizerConfig(channels=channels, **OPTIONS[name])).eval()
    import diffusers

    given = {"in_channels": channels} | ({} if name == "AutoencoderDC" else {"out_channels": channels})
    return getattr(diffusers, name)(**given, **OPTIONS[name]).eval()


def saved_autoencoder(name: str, folder: Path, channels: int = 1) -> Any:
    """The network, which the folder then holds."""
    network = toy_autoencoder(name, channels)
    network.save_pretrained(folder)
    return network
