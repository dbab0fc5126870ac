"""Inception-v3 as published FIDs use it."""

import io
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, BasicConv2d, FeatureExtractorInceptionV3

from wvq.tokenizer.errors import InputError

from .extractor import Extractor, read_weights

SPATIAL_CHANNELS = 7  # of 17x17 numbers each, as many together as the pooled features, about
_FETCH_INCEPTION = "import torch_fidelity as t; t.FeatureExtractorInceptionV3('inception-v3-compat', ['2048'])"


class InceptionV3(Extractor):
    """Inception-v3 as published FIDs use it (torch-fidelity's port): 2,048 pooled features, TensorFlow 1's resize.

    Equal to torch-fidelity's to float32 rounding and faster: batch normalisation is folded into the convolutions,
    memory is channels-last, and the resize gathers rows, then columns.

    Args:
        weights: torch-fidelity's file of weights; torch hub's cache is searched without it, and nothing is downloaded.
    """

    name = "inception"
    dimension = 2048
    input_size = 299
    resize = "299x299, bilinear as in TensorFlow 1, without antialias"
    cpu_batch = 16

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        path = Path(weights or Path(torch.hub.get_dir(), "checkpoints", Path(URL_INCEPTION_V3).name))
        if not path.is_file():
            raise InputError(
                f"extractor '{self.name}' found no weights at {path}; pass weights=FILE, or fetch them once, online, "
                f'with: python -c "{_FETCH_INCEPTION}"'
            )
        state, self.weights_sha256 = read_weights(path)
        # torch-fidelity unpickles without restriction: what it gets is not the file but our copy of the tensors in it.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        try:
            network = FeatureExtractorInceptionV3(self.name, [str(self.dimension)], feature_extractor_weights_path=copy)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{path} does not hold the weights of torch-fidelity's Inception-v3") from error
        blocks: list[Any] = [module for module in network.modules() if isinstance(module, BasicConv2d)]
        for block in blocks:
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
        layers = [layer for layer in network.children() if layer is not network.fc]  # in the order in which they apply
        self.network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self._spatial_at = layers.index(network.Mixed_6d)  # "mixed_6" of TensorFlow's graph
        self.classifier = network.fc
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        return self.network(self._pixels(images)).flatten(1)

    def features_and_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Also the first 7 channels of "mixed_6/conv", 17x17, as guided-diffusion's evaluator takes them for sFID.

        They are flattened as it does, rows, columns, channels, so that its published `mu_s` and `sigma_s` fit.
        """
        before, after = self.network[: self._spatial_at], self.network[self._spatial_at :]
        maps = before(self._pixels(images))
        spatial = cast(Any, after[0]).branch1x1(maps)[:, :SPATIAL_CHANNELS]
        return after(maps).flatten(1), spatial.permute(0, 2, 3, 1).flatten(1)

    def _pixels(self, images: Tensor) -> Tensor:
        pixels = (_resized_as_in_tensorflow_1(images, self.input_size) - 128) / 128
        return pixels.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return features.to(self.classifier.weight) @ self.classifier.weight.mT


def _resized_as_in_tensorflow_1(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) -> (N, C, size, size), float32: bilinear, pixel i at i * H / size, no antialias."""

    def places(length: int) -> tuple[Tensor, Tensor, Tensor]:
        step = torch.tensor(length / size, dtype=torch.float32, device=images.device)
        exact = torch.arange(size, device=images.device) * step
        below = exact.long()
        return below, (below + 1).clamp_max(length - 1), exact - below

    below, above, share = places(images.shape[2])
    rows = torch.lerp(images[:, :, below].float(), images[:, :, above].float(), share[:, None])
    below, above, share = places(images.shape[3])
    return torch.lerp(rows[..., below], rows[..., above], share)
