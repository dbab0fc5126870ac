"""Images to tokens and back: what a tokenizer keeps of a picture."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import to_model, to_uint8
from wvq.tokenizer.images import BadImage, square_pixels

from .base import ImagePipelineOutput, Pipeline, check_output_type, format_images


class ReconstructionPipeline(Pipeline):
    """Encodes and decodes images with a tokenizer.

    Example:
        >>> pipeline = ReconstructionPipeline.from_pretrained("runs/reconstruction")
        >>> pipeline(Image.open("shoe.png")).images[0].save("shoe-reconstructed.png")
    """

    component_classes: ClassVar = {"tokenizer": ("wvq.tokenizer", "VQTokenizer")}
    component_loaders: ClassVar = {"tokenizer": VQTokenizer.from_pretrained}

    tokenizer: VQTokenizer

    def __init__(self, tokenizer: VQTokenizer):
        super().__init__(tokenizer=tokenizer)

    def __call__(
        self, images: Tensor | Image.Image | Sequence[Image.Image], output_type: str = "pil", return_dict: bool = True
    ) -> ImagePipelineOutput | Any:
        """Reconstruct images; "latent" returns their tokens instead.

        Args:
            images: uint8 (N, C, H, W) of the tokenizer's size, or PIL images of any size and mode, which get the crop
                and resize of training.
            output_type: "pil", "np", "pt", "uint8" or "latent".
            return_dict: whether to return `ImagePipelineOutput` instead of a tuple.

        Raises:
            InputError: for images of another type or shape.
        """
        check_output_type(output_type)
        if not isinstance(images, Tensor):
            pictures = [images] if isinstance(images, Image.Image) else list(images)
            if not pictures:
                raise InputError("images is empty; give at least one")
            config = self.tokenizer.config
            try:
                pixels = [square_pixels(p, config.image_size, config.channels) for p in pictures]
            except BadImage as error:
                raise InputError(f"an image cannot be used: {error}") from error
            images = torch.from_numpy(np.stack(pixels))
        if images.dtype != torch.uint8:
            raise InputError(f"images have dtype {images.dtype}; tensors must be uint8, 0 to 255")
        indices = self.tokenizer.encode(to_model(images.to(self.device)))
        result: Any = indices
        if output_type != "latent":
            result = format_images(to_uint8(self.tokenizer.decode(indices)), output_type)
        return ImagePipelineOutput(result) if return_dict else (result,)
