"""Codes from vectors that are all there beforehand: what a quantizer starts from in an autoencoder that is trained."""

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import to_float64
from wvq.tokenizer.quantizers.base import Quantizer
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer
from wvq.tokenizer.quantizers.composite import CompositeQuantizer, ProductQuantizer
from wvq.tokenizer.quantizers.gaussian import gaussian_transport_map, mean_and_covariance
from wvq.tokenizer.quantizers.initialization import codes_from_data


@torch.no_grad()
def start_from_data(quantizer: Quantizer | CompositeQuantizer, vectors: Tensor) -> None:
    """Draw codes from vectors (N, D) and carry them to the mean and covariance of these, by the optimal map.

    With initialization "kmeans++" they are spread out, else drawn at random. Each quantizer of a composite gets the
    vectors that it will see: its slice, or what the ones before it leave over. One without a table of codes stays as it
    is.

    Raises:
        InputError: if there are fewer vectors than codes.
    """
    if isinstance(quantizer, ProductQuantizer):
        widths = [part.codebook_dim for part in quantizer.sub_quantizers]
        for part, own in zip(quantizer.sub_quantizers, vectors.split(widths, dim=1), strict=True):
            start_from_data(part, own)
    elif isinstance(quantizer, CompositeQuantizer):
        for part in quantizer.sub_quantizers:
            start_from_data(part, vectors)
            vectors = vectors - part.lookup(part.assign(part.project(vectors)))
    elif isinstance(quantizer, CodebookQuantizer):
        size = quantizer.codebook_size
        if len(vectors) < size:
            raise InputError(f"codebook_size is {size}; the training images have {len(vectors)} latents, and need more")
        vectors = quantizer.project(vectors)
        codes = codes_from_data("kmeans++" if quantizer.initialization == "kmeans++" else "data", vectors, size)
        if size > quantizer.codebook_dim:  # else they have no full covariance to be carried to
            matrix, offset = gaussian_transport_map(*mean_and_covariance(codes), *mean_and_covariance(vectors))
            codes = (to_float64(codes) @ matrix.mT + offset).to(vectors)
        quantizer.set_codes(codes)
        quantizer.initialized.fill_(True)
