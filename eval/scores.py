"""Scores of a tokenizer's reconstructions and of generated images, each with the protocol that makes it comparable."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from wvq.tokenizer.data import ImageDataset, to_model, to_uint8
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.model import VQTokenizer
from wvq.tokenizer.quality import QUALITY_PROTOCOL, ReconstructionQuality

from .extractors import Extractor
from .feature_scores import score_label
from .frechet import FrechetDistance
from .image_quality import IMAGE_QUALITY_PROTOCOL, MS_SSIM_ABOVE, PerceptualSimilarity, multiscale_ssim, psnr_luma
from .reference import ReferenceStatistics


@dataclass(frozen=True)
class ReconstructionScores:
    """Scores of a tokenizer on a whole evaluation set; `protocol` says what each means.

    Attributes:
        reconstruction_frechet_distance: of the reconstructions to the very same images, called `protocol["score"]`.
        reconstruction_loss: mean squared error on the [-1, 1] scale, of 8-bit reconstructions.
        psnr: dB.
        psnr_luma: dB, of the luma alone, some 3 dB higher: what the paper reports.
        ssim: in [-1, 1].
        ms_ssim: in [0, 1]; None for images of 160 pixels and less.
        lpips: None without a network for it.
        utilization: in [1/K, 1].
        perplexity: in [1, K].
        quantization_error: E.
        relative_quantization_error: E over the trace of the features' covariance.
        num_images: N.
        protocol: JSON-able.
        code_histogram: how often each code was used, int64 (K,); not in `as_dict`.
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
    quantization_error: float
    relative_quantization_error: float
    num_images: int
    protocol: dict[str, Any]
    code_histogram: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Scores and protocol, JSON-able."""
        scores = asdict(self)
        del scores["code_histogram"]
        return scores


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
    prefix = "r" if kind == "reconstruction" else ""
    return prefix + score_label("FID", extractor.protocol)


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


@torch.no_grad()
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
        progress: whether to show a bar.
        perceptual: network of LPIPS.

    Raises:
        InputError: if the reference is of other images or another extractor, the images do not fit the tokenizer, or
            are fewer than 2.
    """
    if reference is not None and reference.dataset["fingerprint"] != dataset.fingerprint:
        raise InputError(
            f"the reference statistics are of other images: fingerprint {reference.dataset['fingerprint']} there, "
            f"{dataset.fingerprint} here; reconstructions are compared with the very images they come from"
        )
    codebook = tokenizer.quantizer.codebook
    quality = ReconstructionQuality(*codebook.shape).to(codebook.device)
    distance = FrechetDistance(extractor, reference=reference)
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_luma": psnr_luma}
    if min(dataset[0]["images"].shape[-2:]) > MS_SSIM_ABOVE:
        measures["ms_ssim"] = multiscale_ssim
    if perceptual is not None:
        measures["lpips"] = perceptual
    means: dict[str, Any] = {"psnr_luma": 0.0, "ms_ssim": None, "lpips": None} | dict.fromkeys(measures, 0.0)
    with _evaluating(tokenizer):
        for batch in _batches(dataset, batch_size, "reconstructions", progress):
            originals = batch.to(codebook.device)
            features = tokenizer.features(to_model(originals))
            indices = tokenizer.quantizer(features).indices
            reconstructions = to_uint8(tokenizer.decode(indices))
            quality.update(originals, reconstructions, features, indices, codebook)
            for name, measure in measures.items():
                means[name] += float(measure(originals, reconstructions).sum()) / len(dataset)
            distance.update(reconstructions, real=False)
            if reference is None:
                distance.update(originals, real=True)
    protocol = {
        "score": score_name(extractor, "reconstruction"),
        "extractor": extractor.protocol,
        "reference": dataset.description,
        "num_images": len(dataset),
        "tokenizer": tokenizer.fingerprint,
        **QUALITY_PROTOCOL,
        **{name: IMAGE_QUALITY_PROTOCOL[name] for name in measures},
    }
    if perceptual is not None:
        protocol["lpips_network"] = perceptual.protocol
    return ReconstructionScores(
        reconstruction_frechet_distance=float(distance.compute()),
        **quality.compute(),
        **means,
        num_images=len(dataset),
        protocol=protocol,
        code_histogram=quality.histogram.cpu(),
    )


def evaluate_generation(
    images: Iterable[Tensor],
    reference: ReferenceStatistics | ImageDataset,
    extractor: Extractor,
    sampling: Mapping[str, Any] | None = None,
    num_images: int | None = None,
    batch_size: int = 500,
    progress: bool = True,
) -> GenerationScores:
    """Fréchet distance of generated images to a reference set; in one process.

    Args:
        images: batches of generated images, uint8 (B, C, H, W), such as a generator that samples as it goes.
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
    distance = FrechetDistance(extractor, reference=reference)
    for batch in _with_bar(images, num_images, "generated", progress):
        distance.update(batch, real=False)
    num_generated, _, _ = distance.statistics(real=False)
    protocol = {
        "score": score_name(extractor, "generation"),
        "extractor": extractor.protocol,
        "reference": reference.dataset,
        "num_reference": reference.count,
        "num_generated": num_generated,
        "sampling": dict(sampling or {}),
    }
    return GenerationScores(float(distance.compute()), num_generated, reference.count, protocol)


def _batches(dataset: ImageDataset, batch_size: int, description: str, progress: bool) -> Iterator[Tensor]:
    images = (batch["images"] for batch in dataset.batches(batch_size))
    return _with_bar(images, len(dataset), description, progress)


def _with_bar(batches: Iterable[Tensor], total: int | None, description: str, progress: bool) -> Iterator[Tensor]:
    with tqdm(total=total, desc=description, unit="image", disable=not progress) as bar:
        for images in batches:
            yield images
            bar.update(len(images))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
