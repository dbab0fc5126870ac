"""DINO, DINOv2 and ConvNeXt as transformers reads them, at the size that the images have."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError
from ..storage.hub import local_folder
from ..storage.untrusted import first_line
from .backbone import Backbone

TRANSFORMERS_MODELS = {
    "dino": ("facebook/dino-vits8", ("vit",)),
    "dinov2": ("facebook/dinov2-small", ("dinov2",)),
    "convnext": ("facebook/convnext-tiny-224", ("convnext", "convnextv2")),
}
_SCORING_WIDTH = 1024  # of DINOv2-large, by which FD-DINOv2 scores
_LEVELS = 4
_UNPOOLED = {"dino": {"add_pooling_layer": False}}  # without a layer that DINO's weights do not have


class TransformersModel(Backbone):
    """Four feature maps of a transformers model: after its four stages, or after each quarter of its layers.

    Args:
        name: one of `TRANSFORMERS_MODELS`.
        weights: folder or hub repository, of which only JSON and safetensors are read.

    Raises:
        InputError: for weights that are missing, incomplete or of another model, and for DINOv2-large, which scores.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, weights: str | Path | None = None):
        super().__init__()
        from transformers import AutoConfig, AutoModel
        from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        self.name = name
        default, kinds = TRANSFORMERS_MODELS[name]
        folder = local_folder(weights or default)
        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise InputError(f"backbone '{name}' found no model.safetensors in {folder}; pass weights=FOLDER")
        try:
            config = AutoConfig.from_pretrained(folder)
            if config.model_type not in kinds:
                raise InputError(f"{folder} holds a {config.model_type}; valid for '{name}' is {' or '.join(kinds)}")
            if name == "dinov2" and config.hidden_size == _SCORING_WIDTH:
                raise InputError(f"{folder} holds DINOv2-large, by which models are scored; give a smaller DINOv2")
            network, loading = AutoModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **_UNPOOLED.get(name, {})
            )
        except (OSError, ValueError, SafetensorError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{folder} does not hold a transformers model: {first_line(error)}") from error
        if loading["missing_keys"]:  # transformers would leave them random
            raise InputError(f"{folder} does not hold the weights of '{name}': no {min(loading['missing_keys'])}")
        self.network = network
        if name == "convnext":
            self.patch_size, self.widths = 32, tuple(config.hidden_sizes)
        else:
            self.patch_size, self.widths = config.patch_size, (config.hidden_size,) * _LEVELS
        self.fingerprint = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images whose sides are no multiples of a patch are resized to the nearest."""
        sides = [max(1, round(side / self.patch_size)) for side in images.shape[-2:]]
        size = [side * self.patch_size for side in sides]
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        pixels = ((images.expand(-1, 3, -1, -1) + 1) / 2 - self.mean) / self.deviation
        options = {"interpolate_pos_encoding": True} if self.name == "dino" else {}
        hidden = self.network(pixel_values=pixels, output_hidden_states=True, **options).hidden_states[1:]
        if self.name == "convnext":
            return list(hidden)
        chosen = [hidden[len(hidden) * level // _LEVELS - 1] for level in range(1, _LEVELS + 1)]
        # The tokens of places come last, after that of the class.
        return [tokens[:, -sides[0] * sides[1] :].mT.unflatten(-1, sides) for tokens in chosen]
