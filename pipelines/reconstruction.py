"""Images to tokens and back: what a tokenizer keeps of a picture, and edits of its tokens."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wvq.tokenizer import FSQuantizer, InputError, VQTokenizer, nearest_codes
from wvq.tokenizer.data.decoding import to_model

from .base import ImagePipelineOutput, Images, Pipeline, check_output_type, format_images, given_pixels, to_pixels


class ReconstructionPipeline(Pipeline):
    """Encodes images to tokens with a tokenizer and decodes them, also after the tokens were changed.

    Example:
        >>> pipeline = ReconstructionPipeline.from_pretrained("runs/reconstruction")
        >>> pipeline(Image.open("shoe.png")).images[0].save("shoe-reconstructed.png")
    """

    component_classes: ClassVar = {"tokenizer": ("wvq.tokenizer", "VQTokenizer")}
    component_loaders: ClassVar = {"tokenizer": VQTokenizer.from_pretrained}

    tokenizer: VQTokenizer

    def __init__(self, tokenizer: VQTokenizer):
        super().__init__(tokenizer=tokenizer)

    def __call__(self, images: Images, output_type: str = "pil", return_dict: bool = True) -> ImagePipelineOutput | Any:
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
        return self._output(self._indices_of(images), output_type, return_dict)

    def decode(self, tokens: Tensor, output_type: str = "pil", return_dict: bool = True) -> ImagePipelineOutput | Any:
        """Images of tokens, such as `__call__` gives with "latent", after any change to them.

        Args:
            tokens: indices of the tokenizer, (N, h, w) or (N, h, w, M), int64 in [0, K).
            output_type, return_dict: as for `__call__`.

        Raises:
            InputError: for a grid of another size or a token out of range.
        """
        check_output_type(output_type)
        return self._output(tokens.to(self.device), output_type, return_dict)

    def combine(
        self, images: Images, others: Images, mask: Tensor, output_type: str = "pil", return_dict: bool = True
    ) -> ImagePipelineOutput | Any:
        """Images whose masked tokens are those of others; the decoder blends the seam.

        Args:
            images, others: (N, C, H, W) each, or N pictures each, as for `__call__`.
            mask: bool (h, w) or (N, h, w), of the token grid, true where the others' tokens are taken; of a tokenizer
                with scales (T,) or (N, T).
            output_type, return_dict: as for `__call__`.

        Raises:
            InputError: for another number of others or a mask of another shape or type, and as `__call__`.
        """
        check_output_type(output_type)
        own, taken = self._pairs(images, others)
        grids = tuple(own.shape[:3])
        if mask.dtype != torch.bool or tuple(mask.shape) not in (grids, grids[1:]):
            raise InputError(
                f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; it must be bool {grids[1:]} or {grids}"
            )
        mask = mask[..., None] if own.ndim == 4 else mask  # all codes of a position together
        return self._output(torch.where(mask.to(own.device), taken, own), output_type, return_dict)

    def interpolate(
        self, images: Images, others: Images, num_steps: int, output_type: str = "pil", return_dict: bool = True
    ) -> ImagePipelineOutput | Any:
        """Images on the way from each of N to its other: codes are mixed linearly, and the nearest codes decoded.

        Args:
            images, others: (N, C, H, W) each, or N pictures each, as for `__call__`.
            num_steps: images from each one to its other, both of them included; at least 2.
            output_type, return_dict: as for `__call__`; N * num_steps images, those of a pair one after another.

        Raises:
            InputError: for another number of others or less than 2 steps, and as `__call__`.
        """
        check_output_type(output_type)
        if num_steps < 2:
            raise InputError(f"num_steps is {num_steps}; it must be at least 2")
        quantizer = self.tokenizer.quantizer
        own, taken = self._pairs(images, others)
        start, end = (quantizer.lookup(indices).movedim(-1, 1) for indices in (own, taken))
        shares = torch.linspace(0, 1, num_steps, device=start.device)
        with torch.no_grad():
            between = [_nearest(quantizer, torch.lerp(start, end, share)) for share in shares[1:-1]]
        steps = [own, *between, taken]
        return self._output(torch.stack(steps, dim=1).flatten(0, 1), output_type, return_dict)

    def _pairs(self, images: Images, others: Images) -> tuple[Tensor, Tensor]:
        own, taken = self._indices_of(images), self._indices_of(others)
        if len(own) != len(taken):
            raise InputError(f"others are {len(taken)} for {len(own)} images; give one for each")
        return own, taken

    def _indices_of(self, images: Images) -> Tensor:
        return self.tokenizer.encode(to_model(given_pixels(images, self.tokenizer.config).to(self.device)))

    def _output(self, indices: Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | Any:
        result: Any = indices
        if output_type != "latent":
            result = format_images(to_pixels(self.tokenizer.decode(indices)), output_type)
        return ImagePipelineOutput(result) if return_dict else (result,)


def _nearest(quantizer: nn.Module, vectors: Tensor) -> Tensor:
    """Indices of the codes nearest to vectors (N, D, ...) of the codebook's space, found as a quantizer finds them."""
    if isinstance(quantizer, FSQuantizer):  # which takes vectors of another space, before its projection and bounds
        flat = vectors.movedim(1, -1)
        return nearest_codes(flat.flatten(0, -2), quantizer.codebook).view(flat.shape[:-1])
    return quantizer(vectors).indices
