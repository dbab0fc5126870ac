"""Scores of a tokenizer's reconstructions and of generated images, each with the protocol that makes it comparable."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.metrics import QUALITY_PROTOCOL, reconstruction_quality, usage_by_scale
from wvq.tokenizer.model import VQTokenizer
from wvq.tokenizer.progress import progress_bar

from .feature_scores import score_features
from .features.extractor import Extractor
from .features.feature_set import FeatureSet
from .features.reconstructions import Reconstructions, measure_reconstructions
from .features.reference import ReferenceStatistics
from .frechet_metric import FrechetDistance
from .metrics.image_quality import IMAGE_QUALITY_PROTOCOL
from .metrics.perceptual import PerceptualSimilarity
from .score_names import score_label


@dataclass(frozen=True)
class ReconstructionScores:
    """Scores of a tokenizer on a whole evaluation set; `protocol` says what each means.

    Attributes:
        reconstruction_frechet_distance: of the reconstructions to the very same images, called `protocol["score"]`.
        reconstruction_loss: mean squared error on the [-1, 1] scale, of 8-bit reconstructions.
        psnr: dB.
        psnr_luma: dB, of the luma alone, some 3 dB higher: what the paper reports.
        ssim: in [-1, 1].
        ms_ssim: in [0, 1]; None for images of 175 pixels and less.
        lpips: None without a network for it.
        utilization: in [1/K, 1].
        perplexity: in [1, K].
        token_entropy: bits of an image's tokens by the frequencies of the codes alone, in [0, T log2 K].
        quantization_error: E.
        relative_quantization_error: E over the trace of the features' covariance.
        num_images: N.
        protocol: JSON-able.
        code_histogram: how often each code was used, int64 (K,); not in `as_dict`.
        by_scale: utilization and perplexity of each scale, as utilization_2x2; none of a tokenizer without scales.
    """

    reconstruction_frechet_distance: float
    reconstruction_loss: float
    psnr: float
    psnr_luma: float
    ssim: float
    ms_ssim: float | None
    lpips: float | None
    utilization: float
    perplexity: float
    token_entropy: float
    quantization_error: float
    relative_quantization_error: float
    num_images: int
    protocol: dict[str, Any]
    code_histogram: Tensor = field(repr=False, compare=False)
    by_scale: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Scores and protocol, JSON-able."""
        scores = asdict(self)
        del scores["code_histogram"]
        return scores if self.by_scale else {name: value for name, value in scores.items() if name != "by_scale"}


@dataclass(frozen=True)
class GenerationScores:
    """The distance of generated images to a reference set, called `protocol["score"]`, and between how many images."""

    generation_frechet_distance: float
    num_generated: int
    num_reference: int | None
    protocol: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Scores and protocol, JSON-able."""
        return asdict(self)


def score_name(extractor: Extractor, kind: Literal["reconstruction", "generation"]) -> str:
    """What a Fréchet distance may be called: "rFID" and "FID" only with Inception's standard weights and resize.

    With any other extractor, or other weights, it is named after the extractor: "rFD[...]" and "FD[...]".
    """
    return score_label("rFID" if kind == "reconstruction" else "FID", extractor.protocol)


def reference_statistics(
    dataset: ImageDataset, extractor: Extractor, batch_size: int = 500, progress: bool = True
) -> ReferenceStatistics:
    """Feature statistics of a whole data set, for `evaluate_reconstruction`, `evaluate_generation`, `FrechetDistance`.

    Raises:
        InputError: for a data set of fewer than 2 images.
    """
    distance = FrechetDistance(extractor)
    for images in _batches(dataset, batch_size, "reference", progress):
        distance.update(images, real=True)
    count, mean, covariance = distance.statistics(real=True)
    return ReferenceStatistics(count, mean, covariance, extractor.protocol, dataset.description)


def evaluate_reconstruction(
    tokenizer: VQTokenizer,
    dataset: ImageDataset,
    extractor: Extractor,
    reference: ReferenceStatistics | None = None,
    batch_size: int = 64,
    progress: bool = True,
    perceptual: PerceptualSimilarity | None = None,
) -> ReconstructionScores:
    """Encode and decode a whole evaluation set in one pass and score it; in one process.

    Runs where the tokenizer and the extractor are, and leaves the tokenizer in the mode in which it came.

    Args:
        tokenizer: to be scored.
        dataset: the evaluation images.
        extractor: for the Fréchet distance.
        reference: `reference_statistics` of the same data set, which saves half of the extractor's work.
        batch_size: images at once; on a CPU more of them are slower.
        progress: whether to show bars.
        perceptual: network of LPIPS.

    Raises:
        InputError: if the reference is of other images or another extractor, the images do not fit the tokenizer, or
            are fewer than 2.
    """
    if reference is not None:
        _check_originals(reference, dataset, extractor)
    measured = measure_reconstructions(tokenizer, dataset, extractor, batch_size, progress, perceptual)
    reference = reference or reference_statistics(dataset, extractor, progress=progress)
    return score_reconstructions(measured, reference, tokenizer, dataset, extractor, perceptual)


def score_reconstructions(
    measured: Reconstructions,
    reference: ReferenceStatistics,
    tokenizer: VQTokenizer,
    dataset: ImageDataset,
    extractor: Extractor,
    perceptual: PerceptualSimilarity | None = None,
) -> ReconstructionScores:
    """The scores of `measure_reconstructions` of the same tokenizer, data set, extractor and network.

    Raises:
        InputError: if the reference is of other images or another extractor, or the images are fewer than 2.
    """
    _check_originals(reference, dataset, extractor)
    protocol = {
        "score": score_name(extractor, "reconstruction"),
        "extractor": extractor.protocol,
        "reference": dataset.description,
        "num_images": len(dataset),
        "tokenizer": tokenizer.fingerprint,
        **QUALITY_PROTOCOL,
        **{name: IMAGE_QUALITY_PROTOCOL[name] for name in measured.measures},
    }
    if perceptual is not None:
        protocol["lpips_network"] = perceptual.protocol
    histogram, scales = measured.quality["histogram"], tokenizer.config.scales
    means = {name: float(values.mean()) for name, values in measured.measures.items()}
    return ReconstructionScores(
        reconstruction_frechet_distance=_distance(reference, measured.features),
        **reconstruction_quality(**measured.quality),
        psnr_luma=means["psnr_luma"],
        ms_ssim=means.get("ms_ssim"),
        lpips=means.get("lpips"),
        num_images=len(dataset),
        protocol=protocol,
        code_histogram=histogram.view(-1, histogram.shape[-1]).sum(dim=0),
        by_scale=usage_by_scale(histogram, scales) if scales else {},
    )


def _check_originals(reference: ReferenceStatistics, dataset: ImageDataset, extractor: Extractor) -> None:
    if reference.dataset["fingerprint"] != dataset.fingerprint:
        raise InputError(
            f"the reference statistics are of other images: fingerprint {reference.dataset['fingerprint']} there, "
            f"{dataset.fingerprint} here; reconstructions are compared with the very images they come from"
        )
    reference.check_extractor(extractor.protocol)


def _distance(reference: ReferenceStatistics, features: FeatureSet) -> float:
    return score_features(reference, features, ["fid"], allow_few_images=True)["fid"]["value"]


def evaluate_generation(
    images: Iterable[Tensor] | FeatureSet,
    reference: ReferenceStatistics | ImageDataset,
    extractor: Extractor,
    sampling: Mapping[str, Any] | None = None,
    num_images: int | None = None,
    batch_size: int = 500,
    progress: bool = True,
) -> GenerationScores:
    """Fréchet distance of generated images to a reference set; in one process.

    Args:
        images: batches of generated images, uint8 (B, C, H, W), such as a generator that samples as it goes; or the
            extractor's features of them.
        reference: the reference set, or its `reference_statistics` if it serves more than once.
        extractor: from images to features.
        sampling: how the images were made (seed, temperature, guidance scale, fingerprints of the models); JSON-able,
            it becomes part of the protocol.
        num_images: how many images there will be, for the bar alone.
        batch_size: images of the reference set at once.
        progress: whether to show bars.

    Raises:
        InputError: if the reference is of another extractor, images are not uint8, or are fewer than 2.
    """
    if isinstance(reference, ImageDataset):
        reference = reference_statistics(reference, extractor, batch_size, progress)
    if isinstance(images, FeatureSet):
        num_generated, distance = len(images), _distance(reference, images)
    else:
        metric = FrechetDistance(extractor, reference=reference)
        for batch in _with_bar(images, num_images, "generated", progress):
            metric.update(batch, real=False)
        num_generated, distance = metric.statistics(real=False)[0], float(metric.compute())
    protocol = {
        "score": score_name(extractor, "generation"),
        "extractor": extractor.protocol,
        "reference": reference.dataset,
        "num_reference": reference.count,
        "num_generated": num_generated,
        "sampling": dict(sampling or {}),
    }
    return GenerationScores(distance, num_generated, reference.count, protocol)


def _batches(dataset: ImageDataset, batch_size: int, description: str, progress: bool) -> Iterator[Tensor]:
    images = (batch["images"] for batch in dataset.batches(batch_size))
    return _with_bar(images, len(dataset), description, progress)


def _with_bar(batches: Iterable[Tensor], total: int | None, description: str, progress: bool) -> Iterator[Tensor]:
    with progress_bar(total=total, desc=description, unit="image", disable=not progress) as bar:
        for images in batches:
            yield images
            bar.update(len(images))
