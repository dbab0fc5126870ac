"""Features of a whole set of images, taken once for any number of scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from wvq.tokenizer.errors import InputError

from .extractors import Extractor


class ImageSource(Protocol):
    """Images to be scored: `wvq.tokenizer.data.ImageDataset`, or any class of `wvq.eval.image_sources`."""

    description: dict[str, Any]

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """All images once, in order: "images" (B, C, H, W) and, if there are classes, "labels" (B,)."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What an extractor makes of a set of images.

    Attributes:
        vectors: (N, d) float32, on the CPU.
        labels: (N,) int64, or None without classes.
        logits: class scores (N, classes) of the extractor's own last layer, or None.
        extractor: its protocol.
        images: the set's description.
    """

    vectors: Tensor
    labels: Tensor | None
    logits: Tensor | None
    extractor: Mapping[str, Any]
    images: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.vectors)

    def select(self, chosen: Tensor) -> "FeatureSet":
        """The images at these positions (M,)."""
        labels, logits = (None if x is None else x[chosen] for x in (self.labels, self.logits))
        return replace(self, vectors=self.vectors[chosen], labels=labels, logits=logits)


class RememberingExtractor(Extractor):
    """The extractor it is given, which keeps the features of all images that pass through it on the CPU."""

    def __init__(self, extractor: Extractor):
        super().__init__()
        self.extractor = extractor
        self.seen: list[Tensor] = []

    @property
    def protocol(self) -> dict[str, Any]:
        """That of the extractor."""
        return self.extractor.protocol

    @property
    def num_features(self) -> int:
        """d."""
        return self.extractor.num_features

    def forward(self, images: Tensor) -> Tensor:
        """As the extractor."""
        features = self.extractor(images)
        self.seen.append(features.cpu())
        return features

    def taken(self, labels: Tensor | None, images: Mapping[str, Any], with_logits: bool) -> FeatureSet:
        """The features (N, d) of all images since the last call, as those of a set with these labels (N,)."""
        vectors, self.seen = torch.cat(self.seen), []
        logits = self.extractor.logits(vectors).cpu() if with_logits else None
        return FeatureSet(vectors, labels, logits, self.protocol, images)


@torch.no_grad()
def extract_features(
    source: ImageSource, extractor: nn.Module, batch_size: int = 500, with_logits: bool = False, progress: bool = True
) -> FeatureSet:
    """Put all images through an extractor, batch by batch; only the features stay in memory.

    Args:
        source: the images, uint8 or float in [0, 1].
        extractor: an `Extractor`, or any module from uint8 images to (N, d); it is left in eval mode.
        batch_size: images at once.
        with_logits: whether the class scores are wanted as well, for the Inception score.
        progress: whether to show a bar.

    Raises:
        InputError: for no images, images of a wrong range, and features that are not (N, d) and finite.
    """
    extractor.eval()
    device = next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))
    vectors, labels, logits = [], [], []
    with tqdm(total=len(source), desc="features", unit="image", disable=not progress) as bar:
        for batch in source.batches(batch_size):
            features = extractor(to_eight_bit(batch["images"]).to(device)).float()
            if features.ndim != 2 or len(features) != len(batch["images"]) or not features.isfinite().all():
                raise InputError(
                    f"the extractor returned {tuple(features.shape)} for {len(batch['images'])} images; it must return "
                    "finite features (N, d)"
                )
            vectors.append(features.cpu())
            if "labels" in batch:
                labels.append(batch["labels"].cpu())
            if with_logits:
                logits.append(extractor.logits(features).cpu())  # pyright: ignore[reportCallIssue]
            bar.update(len(features))
    if not vectors:
        raise InputError(f"there are no images in {source.description}")
    return FeatureSet(
        torch.cat(vectors),
        torch.cat(labels) if labels else None,
        torch.cat(logits) if logits else None,
        getattr(extractor, "protocol", {"name": type(extractor).__name__, "dimension": vectors[0].shape[1]}),
        source.description,
    )


def to_eight_bit(images: Tensor) -> Tensor:
    """uint8 images as they are; float ones in [0, 1] clamped, rounded, then cast.

    A decoder overshoots a little; a cast that does not clamp would wrap 1.01 to black.

    Raises:
        InputError: for another dtype, NaN, or values that belong to another range, such as [-1, 1] or [0, 255].
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"images are {images.dtype}; valid are torch.uint8 and floating point in [0, 1]")
    low, high = (float(x) for x in images.aminmax()) if images.numel() else (0.0, 0.0)
    if not (low >= -0.5 and high <= 1.5):
        raise InputError(
            f"float images are in [{low:.3g}, {high:.3g}]; they must be in [0, 1], slightly outside at most"
        )
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
