"""What every feature extractor is: a frozen network that says exactly what it is."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import full_precision


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
        return self._in_batches(images, lambda batch: (self.features(batch),))[0]

    @torch.no_grad()
    def with_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the spatial features (N, s) of sFID, which are not pooled, in one pass.

        Raises:
            InputError: for another dtype or shape, and a network without them.
        """
        features, spatial = self._in_batches(images, self.features_and_spatial)
        return features, spatial

    def _in_batches(self, images: Tensor, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; an extractor takes torch.uint8 "
                "(N, 1 or 3, H, W)"
            )
        device = next(self.parameters()).device
        batches = images.split(self.cpu_batch if device.type == "cpu" else 256)
        with torch.autocast(device.type, enabled=False), full_precision():
            made = [compute(batch.to(device).expand(-1, 3, -1, -1)) for batch in batches]
        return [torch.cat(parts) for parts in zip(*made, strict=True)]

    def logits(self, features: Tensor) -> Tensor:
        """Class scores (N, classes) that the network's own last layer makes of features (N, d), without its bias.

        Raises:
            InputError: for a network without classes.
        """
        raise InputError(f"extractor '{self.name}' has no classes, which the Inception score needs; valid is inception")

    def features(self, images: Tensor) -> Tensor:
        """RGB images uint8 (N, 3, H, W) on the network's device -> features (N, d)."""
        raise NotImplementedError(f"{type(self).__name__} defines no features")  # for subclasses, also a user's own

    def features_and_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `features` gives, and features (N, s) of a layer that still knows places.

        Raises:
            InputError: for a network for which no such layer is agreed on.
        """
        raise InputError(f"extractor '{self.name}' has no spatial features, which sfid needs; valid is inception")


def read_weights(path: Path) -> tuple[Any, str]:
    """What a .pth file of nothing but tensors holds, and the file's sha256."""
    try:
        content = path.read_bytes()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"weights {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # the unpickler raises a dozen unrelated types on damaged bytes
        raise InputError(f"weights {path} is not a PyTorch file of tensors and nothing else") from error
    return state, hashlib.sha256(content).hexdigest()
