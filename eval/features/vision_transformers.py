"""DINOv2 and CLIP as extractors: FD-DINOv2 (arXiv 2306.04675) and CMMD (arXiv 2401.09603), through transformers."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, CLIPVisionModelWithProjection, Dinov2Model
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.hub import local_folder

from .extractor import Extractor


class _VisionTransformer(Extractor):
    """A transformers model from a folder or the hub's repository of that name, of which only safetensors are loaded."""

    default: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    model_class: ClassVar[Any]
    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: str | Path | None, mean: list[float], deviation: list[float]):
        super().__init__()
        folder = local_folder(weights or self.default)
        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise InputError(
                f"extractor '{self.name}' found no model.safetensors in {folder}; pass weights=FOLDER, one that "
                "save_pretrained of transformers wrote"
            )
        try:
            config = AutoConfig.from_pretrained(folder)
            if config.model_type not in self.model_types:
                raise InputError(f"{folder} holds a {config.model_type}; valid is {self.model_types[0]}")
            network, loading = self.model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
        except (OSError, ValueError, SafetensorError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{folder} does not hold a transformers model: {str(error).splitlines()[0]}") from error
        if loading["missing_keys"]:  # transformers would leave them random
            raise InputError(f"{folder} does not hold the weights of {self.name}: no {min(loading['missing_keys'])}")
        self.network = network.requires_grad_(False)
        sums = hashlib.sha256()
        for file in files:
            sums.update(file.read_bytes())
        self.weights_sha256 = sums.hexdigest()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def resize(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How images get to input_size, in words."""
        return f"{self.input_size}x{self.input_size}, bicubic with antialias (torch), rounded to 8 bits"

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) -> what the network takes, (N, 3, input_size, input_size)."""
        size = (self.input_size, self.input_size)
        resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255).round()
        return (resized / 255 - self.mean) / self.deviation


class DINOv2(_VisionTransformer):
    """DINOv2's class token after the last normalisation, at 224 pixels.

    Args:
        weights: folder or hub repository; by default facebook/dinov2-large, the model of FD-DINOv2, d = 1,024.

    Raises:
        InputError: for weights that are missing, of another model, or incomplete.
    """

    name = "dinov2"
    default = "facebook/dinov2-large"
    model_types = ("dinov2",)
    model_class = Dinov2Model
    input_size = 224

    def __init__(self, weights: str | Path | None = None):
        super().__init__(weights, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self.dimension = self.network.config.hidden_size  # pyright: ignore[reportAttributeAccessIssue]

    def features(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=self.pixels(images)).pooler_output


class CLIP(_VisionTransformer):
    """CLIP's projected image embedding, at the size of its configuration.

    Args:
        weights: folder or hub repository; by default openai/clip-vit-large-patch14-336, the model of CMMD, d = 768.

    Raises:
        InputError: for weights that are missing, of another model, or incomplete.
    """

    name = "clip"
    default = "openai/clip-vit-large-patch14-336"
    model_types = ("clip", "clip_vision_model")
    model_class = CLIPVisionModelWithProjection

    def __init__(self, weights: str | Path | None = None):
        super().__init__(weights, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        self.input_size = self.network.config.image_size  # pyright: ignore[reportAttributeAccessIssue]
        self.dimension = self.network.config.projection_dim  # pyright: ignore[reportAttributeAccessIssue]

    def features(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=self.pixels(images)).image_embeds
