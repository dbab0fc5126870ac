"""Features of a whole set of images, taken once for any number of scores."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance
from wvq.tokenizer.storage.pretrained import state_sha256

from ..metrics.frechet import mean_and_factor
from .chunks import CHUNK_SIZE, Chunks
from .classes import Classes
from .extractor import Extractor
from .reference import ReferenceStatistics


class ImageSource(Protocol):
    """Images to be scored: an `ImageDataset`, any class of `wvq.eval.features.image_sources`, or your own.

    Attributes:
        description: what the images are, JSON-able; `classes` = 0 in it says that the labels mean nothing.
        num_workers: processes that read images beside the main one, 0 where there is no such attribute.
        class_names: what the labels mean, in their order; labels are but numbers where there is no such attribute.
    """

    description: dict[str, Any]

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int], /) -> dict[str, Tensor]:
        """These images, read only now: "images" (B, C, H, W) and, if there are classes, "labels" (B,)."""
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
        class_names: what the labels mean; () where they are but numbers.
        spatial: features of a layer that still knows places (N, s), for sFID, or None.
        published: statistics of the set that these images only stand for, as in ADM's reference batches: Fréchet
            distances are to them, everything else is of the images.
    """

    vectors: Tensor
    labels: Tensor | None
    logits: Tensor | None
    extractor: Mapping[str, Any]
    images: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    spatial: Tensor | None = None
    published: ReferenceStatistics | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def classes(self) -> Classes:
        """Labels and what they mean."""
        return Classes(self.labels, self.class_names, str(self.images.get("source", "images without a source")))

    def select(self, chosen: Tensor) -> "FeatureSet":
        """The images at these positions (M,)."""
        rows = {name: getattr(self, name) for name in ("labels", "logits", "spatial")}
        rows = {name: None if values is None else values[chosen] for name, values in rows.items()}
        return replace(self, vectors=self.vectors[chosen], **rows)

    def mean_and_factor(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) of the vectors and L (d, r) with L L' their covariance: a side of a Fréchet distance."""
        return self.published.mean_and_factor() if self.published else mean_and_factor(self.vectors)

    def spatial_mean_and_factor(self) -> tuple[Tensor, Tensor]:
        """The same of the spatial features, (s,) and (s, r).

        Raises:
            InputError: if there are none.
        """
        if self.published:
            return self.published.spatial_mean_and_factor()
        if self.spatial is None:
            raise InputError("score sfid needs the spatial features of the images; extract features with_spatial")
        return mean_and_factor(self.spatial)

    def statistics(self) -> ReferenceStatistics:
        """Means and covariances of the features, to be saved and compared with."""
        if self.published:
            return self.published
        mean, covariance = mean_and_covariance(self.vectors)
        spatial = (None, None) if self.spatial is None else mean_and_covariance(self.spatial)
        return ReferenceStatistics(len(self), mean, covariance, dict(self.extractor), dict(self.images), *spatial)


@torch.no_grad()
def extract_features(
    source: ImageSource,
    extractor: nn.Module,
    batch_size: int = CHUNK_SIZE,
    with_logits: bool = False,
    progress: bool = True,
    chunks: Chunks | None = None,
    with_spatial: bool = False,
) -> FeatureSet:
    """Put all images through an extractor, chunk by chunk; only the features stay in memory.

    Args:
        source: the images, uint8 or float in [0, 1].
        extractor: an `Extractor`, or any module from uint8 images to (N, d); it is left in eval mode.
        batch_size: images at once, at most `CHUNK_SIZE`.
        with_logits: whether the class scores are wanted as well, for the Inception score.
        progress: whether to show a bar.
        chunks: where features are kept, for processes to share the work and for another start to go on with it; the
            source's description must then tell it from any other source.
        with_spatial: whether the features of sFID are wanted as well.

    Raises:
        InputError: for no images, images of a wrong range, features that are not (N, d) and finite, and an extractor
            without class scores or spatial features where these are wanted.
    """
    extractor.eval()
    if (with_logits or with_spatial) and not isinstance(extractor, Extractor):
        raise InputError(f"extractor {type(extractor).__name__} gives features alone; scores is and sfid need more")
    device = next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))
    protocol = extractor_protocol(extractor)

    def work(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for batch in read_chunks(source, ranges):
            images = to_eight_bit(batch["images"]).split(batch_size)
            features = joined(finite_features(extractor, some.to(device), with_spatial) for some in images)
            yield features | ({"labels": batch["labels"]} if "labels" in batch else {})

    about = {"images": source.description, "extractor": protocol, "batch_size": batch_size, "device": device.type}
    about |= {"spatial": True} if with_spatial else {}
    made = (chunks or Chunks()).run("features", about, len(source), work, progress)
    if not made:
        raise InputError(f"there are no images in {source.description}")
    vectors = torch.cat([chunk["vectors"] for chunk in made])
    labelled = "labels" in made[0] and source.description.get("classes", 1)
    return FeatureSet(
        vectors,
        torch.cat([chunk["labels"] for chunk in made]) if labelled else None,
        extractor.logits(vectors).cpu() if with_logits else None,  # pyright: ignore[reportCallIssue]
        protocol | {"dimension": vectors.shape[1]},
        source.description,
        tuple(getattr(source, "class_names", ())),
        torch.cat([chunk["spatial"] for chunk in made]) if with_spatial else None,
    )


def finite_features(extractor: nn.Module, images: Tensor, with_spatial: bool = False) -> dict[str, Tensor]:
    """What an extractor makes of uint8 images (N, C, H, W): {"vectors": (N, d)}, float32, on the CPU.

    Args:
        extractor: any module; with_spatial needs an `Extractor`.
        images: on the extractor's device.
        with_spatial: adds "spatial": (N, s).

    Raises:
        InputError: if it is of another shape, or not finite.
    """
    made = cast(Extractor, extractor).with_spatial(images) if with_spatial else (extractor(images),)
    features: dict[str, Tensor] = dict(zip(("vectors", "spatial"), (part.float().cpu() for part in made), strict=False))
    for part in features.values():
        if part.ndim != 2 or len(part) != len(images) or not part.isfinite().all():
            raise InputError(
                f"the extractor returned {tuple(part.shape)} for {len(images)} images; it must return finite features "
                "(N, d)"
            )
    return features


def joined(batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of batches, at least one, one after the other, by name."""
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def extractor_protocol(extractor: nn.Module) -> dict[str, Any]:
    """An extractor's own protocol; for a module without one its class and the sha256 of its weights."""
    own = getattr(extractor, "protocol", None)
    return dict(own) if own else {"name": type(extractor).__name__, "weights_sha256": state_sha256(extractor)}


def read_chunks(source: ImageSource, ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
    """The images of each range; the source's worker processes, if it has any, read ahead."""
    if ranges:
        images: Any = source  # a data set, though not a torch.utils.data.Dataset
        batches = [list(numbers) for numbers in ranges]
        workers = getattr(source, "num_workers", 0)
        own = torch.Generator()  # leaves the global one
        yield from DataLoader(images, batch_sampler=batches, collate_fn=dict, num_workers=workers, generator=own)


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
