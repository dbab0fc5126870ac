"""`wvq evaluate`: the scores of a tokenizer, of a pipeline, or of any images, with their protocol."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.processes import this_process
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.storage.atomic import write_json

from .codebook import draw_codebook_figure, examine_tokenizer
from .feature_scores import FEATURE_SCORES, Real, check_statistics_suffice, score_features
from .features.chunks import Chunks
from .features.extractor import Extractor
from .features.feature_set import FeatureSet, extract_features
from .features.image_sources import ImageArchive, ImageFolder, open_images
from .features.reconstructions import measure_reconstructions
from .features.reference import ReferenceStatistics, check_same_images
from .features.registry import build_extractor
from .features.samples import sample_features
from .frechet_metric import check_enough_images
from .metrics.perceptual import PerceptualSimilarity
from .scores import ReconstructionScores, evaluate_generation, score_reconstructions

Scoring = Callable[[], tuple[dict[str, Any], list[str]]]  # scores to be written, and lines to be printed
Reference = ReferenceStatistics | ImageDataset | ImageFolder | ImageArchive


@dataclass(frozen=True)
class Evaluation:
    """Scores of reconstructions, of generated images, or of images from elsewhere."""

    tokenizer: str | None = None
    """Folder or hub repository of a tokenizer, to score its reconstructions alone."""
    pipeline: str | None = None
    """Folder or hub repository of a pipeline, to score its tokenizer and its samples."""
    images: str | None = None
    """Folder or .npz of generated images, to score them against `reference`."""
    reference: str | None = None
    """What generated images are compared with: a folder or .npz of images, the statistics of one (a folder that
    save_reference wrote, or a published .npz of mu and sigma); by default images of `data`."""
    reference_split: Literal["train", "evaluation"] = "train"
    """Which images of `data`; published FIDs are of training images."""
    save_reference: str | None = None
    """Folder for the statistics of the reference, to be given as `reference` another time."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images; reconstructions are those of the evaluation split, and compared with it."""
    extractor: str = "inception"
    """inception, efficientnet-lite0, dinov2 or clip."""
    extractor_weights: str | None = None
    """File with the extractor's weights, where they are not in the usual place; of dinov2 and clip a folder."""
    scores: list[str] = field(default_factory=list)
    """Further scores of the same features: fid, fid-infinity, kid, is, precision, recall, density, coverage, cmmd,
    mind, mifid, class-fid, class-accuracy."""
    codebook: bool = False
    """Examine the tokenizer's codebook instead, without extractor: dead and duplicate codes, dimensions, and what to
    change; with `output`, a picture of features and codes is written beside it."""
    resamples: int = 0
    """Bootstrap resamples for 95 % intervals of those of them that allow it: fid, is, cmmd, mind; 0 for none."""
    allow_few_images: bool = False
    """Give a Fréchet distance of no more images than the extractor has dimensions, which is mostly bias."""
    num_images: int = 5_000
    """Images that are generated, the classes in equal shares."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How they are drawn."""
    lpips_weights: str | None = None
    """torchvision's file of AlexNet's weights, for the LPIPS of reconstructions as well."""
    resume_dir: str = "runs/evaluation"
    """Folder of what is computed until the scores are there: the same command resumes from it after it was stopped, and
    processes share it."""
    keep_features: bool = False
    """Leave it there, so that more scores of the same images need no pass through a network."""
    output: str | None = None
    """JSON file for scores and protocol."""

    def __post_init__(self) -> None:
        given = [name for name in ("tokenizer", "pipeline", "images") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"tokenizer is {self.tokenizer}, pipeline is {self.pipeline} and images is {self.images}; "
                "give one of them"
            )
        for name in ("reference", "save_reference"):
            if self.tokenizer is not None and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is {getattr(self, name)}, but reconstructions of a tokenizer are compared with the very "
                    "images they come from"
                )
        if self.reference is not None and self.reference_split != "train":
            raise InputError(f"reference_split is {self.reference_split}, but reference is {self.reference}; give one")
        if self.codebook and self.images is not None:
            raise InputError(f"codebook is true, but images, {self.images}, have none; give a tokenizer or a pipeline")
        for name, value, least in (("num_images", self.num_images, 2), ("resamples", self.resamples, 0)):
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if self.resamples == 1:
            raise InputError("resamples is 1; an interval needs at least 2")
        unknown = [name for name in self.scores if name not in FEATURE_SCORES]
        if unknown:
            raise InputError(f"scores has {unknown[0]}; valid are {', '.join(FEATURE_SCORES)}")


def evaluate(config: Evaluation) -> str | None:
    """Score, write `output` if it is given, and return the scores as lines of text; on the main process alone.

    Under `accelerate launch` processes share the images; scores are the same for any number of them.

    Raises:
        InputError: for a tokenizer, pipeline, images, data or weights that cannot be read, and too few images.
    """
    state = this_process()
    device = state.device or torch.device("cpu")
    if config.codebook:
        return _examine(config, device) if state.is_main_process else None
    extractor = build_extractor(config.extractor, config.extractor_weights).to(device)
    chunks = Chunks(config.resume_dir)
    score = (_measure_images if config.images is not None else _measure_models)(config, extractor, device, chunks)
    if not state.is_main_process:
        return None
    scores, lines = score()
    if config.output:
        write_json(Path(config.output), scores)
    if not config.keep_features:
        chunks.clear()
    return "\n".join(lines)


def _load(config: Evaluation, device: torch.device) -> tuple[VQTokenizer, ClassConditionalPipeline | None]:
    """The tokenizer, and the pipeline if it comes from one."""
    if config.pipeline is not None:
        pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline).to(device)
        return pipeline.tokenizer, pipeline
    assert config.tokenizer is not None
    return VQTokenizer.from_pretrained(config.tokenizer).to(device), None


def _examine(config: Evaluation, device: torch.device) -> str:
    """The codebook's report as text; with `output` also as JSON, and the picture beside it."""
    tokenizer, _ = _load(config, device)
    report = examine_tokenizer(tokenizer, load_splits(config.data)[1])
    if config.output:
        write_json(Path(config.output), report.as_dict())
        draw_codebook_figure(report, Path(config.output).with_suffix(".png"))
    return str(report)


def _measure_models(config: Evaluation, extractor: Extractor, device: torch.device, chunks: Chunks) -> Scoring:
    """All passes of a tokenizer and a pipeline; what they return gives the scores."""
    tokenizer, pipeline = _load(config, device)
    splits = load_splits(config.data)
    originals = splits[1]
    check_enough_images({"evaluation": len(originals)}, extractor.num_features, config.allow_few_images)
    reference = None
    if pipeline is not None:
        reference = _open_reference(config, splits)
        size = {"image_size": tokenizer.config.image_size, "channels": tokenizer.config.channels}
        _check_comparable(config, reference, size, config.num_images, ["fid", *config.scores], extractor)
    perceptual = PerceptualSimilarity("alex", config.lpips_weights).to(device) if config.lpips_weights else None
    original_features = extract_features(originals, extractor, chunks=chunks)
    measured = measure_reconstructions(tokenizer, originals, extractor, perceptual=perceptual, chunks=chunks)
    generated = None
    if pipeline is not None and reference is not None:
        real = _reference_features(config, reference, extractor, chunks)
        generated = sample_features(pipeline, config.num_images, config.sampling, extractor, chunks), real

    def more(against: Real, features: FeatureSet) -> dict[str, Any]:
        if "is" in config.scores:
            features = replace(features, logits=extractor.logits(features.vectors).cpu())
        return score_features(against, features, config.scores, config.allow_few_images, config.resamples)

    def score() -> tuple[dict[str, Any], list[str]]:
        statistics = original_features.statistics()
        reconstruction = score_reconstructions(measured, statistics, tokenizer, originals, extractor, perceptual)
        scores: dict[str, Any] = {"reconstruction": reconstruction.as_dict()}
        lines = [_reconstruction_line(reconstruction)]
        if config.scores:
            scores["reconstruction"]["scores"] = more(original_features, measured.features)
            lines.append(f"reconstructions: {_line(scores['reconstruction']['scores'])}")
        if generated is not None:
            samples, real = generated
            statistics = real if isinstance(real, ReferenceStatistics) else real.statistics()
            generation = evaluate_generation(samples, statistics, extractor, dict(samples.images["sampling"]))
            scores["generation"] = generation.as_dict()
            lines.append(
                f"{generation.protocol['score']} {generation.generation_frechet_distance:.3f} "
                f"{_counts(generation.num_generated, generation.num_reference)}"
            )
            if config.scores:
                scores["generation"]["scores"] = more(real, samples)
                lines.append(f"samples: {_line(scores['generation']['scores'])}")
        return scores, lines

    return score


def _measure_images(config: Evaluation, extractor: Extractor, device: torch.device, chunks: Chunks) -> Scoring:
    """All passes of images from a folder or an .npz; what they return gives the scores."""
    assert config.images is not None
    images = open_images(config.images, config.data.channels, config.data.num_workers)
    reference = _open_reference(config)
    names = config.scores or ["fid"]
    _check_comparable(config, reference, images.description, len(images), names, extractor)
    real = _reference_features(config, reference, extractor, chunks)
    generated = extract_features(images, extractor, with_logits="is" in names, chunks=chunks)
    num_reference = reference.count if isinstance(reference, ReferenceStatistics) else len(reference)

    def score() -> tuple[dict[str, Any], list[str]]:
        results = score_features(real, generated, names, config.allow_few_images, config.resamples)
        protocol = {
            "extractor": extractor.protocol,
            "reference": _description(reference),
            "num_reference": num_reference,
            "generated": images.description,
            "num_generated": len(generated),
        }
        line = f"{_line(results)} {_counts(len(generated), num_reference)}"
        return {"images": {"scores": results, "protocol": protocol}}, [line]

    return score


def _open_reference(config: Evaluation, splits: tuple[ImageDataset, ImageDataset] | None = None) -> Reference:
    """Images or statistics that generated images are compared with."""
    if config.reference is None:
        return (splits or load_splits(config.data))[config.reference_split == "evaluation"]
    path = Path(config.reference)
    if (path / "protocol.json").is_file() or (path.suffix == ".npz" and not ImageArchive.holds_images(path)):
        return ReferenceStatistics.load(path)
    return open_images(path, config.data.channels, config.data.num_workers)


def _check_comparable(
    config: Evaluation, reference: Reference, images: dict[str, Any], count: int, names: list[str], extractor: Extractor
) -> None:
    """Refuse what would be refused after the passes, before them."""
    counts = {"generated": count}
    if isinstance(reference, ReferenceStatistics):
        if config.save_reference is not None:
            raise InputError(f"save_reference is {config.save_reference}, but {config.reference} is statistics already")
        reference.check_extractor(extractor.protocol)
        check_statistics_suffice(names)
    else:
        counts["reference"] = len(reference)
    check_same_images(
        reference.dataset if isinstance(reference, ReferenceStatistics) else reference.description, images
    )
    few = config.allow_few_images or not {"fid", "fid-infinity", "mifid"} & set(names)
    check_enough_images(counts, extractor.num_features, few)


def _reference_features(config: Evaluation, reference: Reference, extractor: Extractor, chunks: Chunks) -> Real:
    """The reference's statistics if there is no more; else features of all its images, their statistics saved."""
    if isinstance(reference, ReferenceStatistics):
        return reference
    features = extract_features(reference, extractor, chunks=chunks)
    if config.save_reference is not None and this_process().is_main_process:
        features.statistics().save(config.save_reference)
    return features


def _description(reference: Reference) -> dict[str, Any]:
    return reference.dataset if isinstance(reference, ReferenceStatistics) else reference.description


def _counts(generated: int, reference: int | None) -> str:
    return f"({generated} generated, {reference or 'an unknown number of'} reference images)"


def _reconstruction_line(scores: ReconstructionScores) -> str:
    return (
        f"{scores.protocol['score']} {scores.reconstruction_frechet_distance:.3f}, "
        f"PSNR {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f}, "
        f"utilization {scores.utilization:.4f}, perplexity {scores.perplexity:.1f}, "
        f"E {scores.quantization_error:.4f}, relative E {scores.relative_quantization_error:.4f} "
        f"({scores.num_images} evaluation images)"
    )


def _line(results: dict[str, dict[str, Any]]) -> str:
    """Each score by its name, with what says how sure it is."""
    measured = []
    for result in results.values():
        words = f"{result['score']} {result['value']:.4g}"
        if "low" in result:
            words += f" [{result['low']:.4g}, {result['high']:.4g}]"
        elif "deviation" in result:
            words += f" +- {result['deviation']:.2g}"
        measured.append(words)
    return ", ".join(measured)
