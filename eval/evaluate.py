"""`wvq evaluate`: the scores of a tokenizer, of a pipeline, or of any images, with their protocol."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.sample import SamplingOptions
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig, ImageDataset, load_splits
from wvq.tokenizer.saving import write_json

from .doctor import draw_codebook_figure, examine_tokenizer
from .extractors import Extractor, build_extractor
from .feature_scores import FEATURE_SCORES, score_features
from .features import FeatureSet, extract_features
from .frechet import check_enough_images
from .image_quality import PerceptualSimilarity
from .image_sources import ImageArchive, open_images
from .parts import Parts, this_process
from .reconstructions import measure_reconstructions
from .reference import ReferenceStatistics, check_same_images
from .samples import sample_features
from .scores import evaluate_generation, score_reconstructions

Score = Callable[[], tuple[dict[str, Any], list[str]]]  # scores to be written, and lines to be printed


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
    """What `images` are compared with: a folder or .npz of images, the statistics of one (a folder that save_reference
    wrote, or a published .npz of mu and sigma); by default the training images of `data`."""
    save_reference: str | None = None
    """Folder for the statistics of the reference, to be given as `reference` another time."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images; scores of a tokenizer and a pipeline refer to the evaluation split."""
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
    allow_few_images: bool = False
    """Give a Fréchet distance of no more images than the extractor has dimensions, which is mostly bias."""
    num_images: int = 5_000
    """Images that are generated, the classes in equal shares."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How they are drawn."""
    lpips_weights: str | None = None
    """torchvision's file of AlexNet's weights, for the LPIPS of reconstructions as well."""
    resume_dir: str = "runs/evaluation"
    """Folder of what is computed until the scores are there: the same command goes on from it after it was stopped, and
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
            if self.images is None and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is {getattr(self, name)}, but a {given[0]} is compared with the images of data"
                )
        if self.codebook and self.images is not None:
            raise InputError(f"codebook is true, but images, {self.images}, have none; give a tokenizer or a pipeline")
        if self.num_images < 2:
            raise InputError(f"num_images is {self.num_images}; it must be at least 2")
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
    device = state.device
    if config.codebook:
        return _examine(config, device) if state.is_main_process else None
    extractor, parts = build_extractor(config.extractor, config.extractor_weights).to(device), Parts(config.resume_dir)
    score = (_measure_images if config.images is not None else _measure_models)(config, extractor, device, parts)
    if not state.is_main_process:
        return None
    scores, lines = score()
    if config.output:
        write_json(Path(config.output), scores)
    if not config.keep_features:
        parts.clear()
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


def _measure_models(config: Evaluation, extractor: Extractor, device: torch.device, parts: Parts) -> Score:
    """All passes of a tokenizer and a pipeline; what they return gives the scores."""
    tokenizer, pipeline = _load(config, device)
    _, evaluation_set = load_splits(config.data)
    counts = {"evaluation": len(evaluation_set)} | ({"generated": config.num_images} if pipeline is not None else {})
    check_enough_images(counts, extractor.num_features, config.allow_few_images)
    perceptual = PerceptualSimilarity("alex", config.lpips_weights).to(device) if config.lpips_weights else None
    real = extract_features(evaluation_set, extractor, parts=parts)
    measured = measure_reconstructions(tokenizer, evaluation_set, extractor, perceptual=perceptual, parts=parts)
    samples = sample_features(pipeline, config.num_images, config.sampling, extractor, parts) if pipeline else None

    def more(features: FeatureSet) -> dict[str, Any]:
        if "is" in config.scores:
            features = replace(features, logits=extractor.logits(features.vectors).cpu())
        return score_features(real, features, config.scores, config.allow_few_images)

    def score() -> tuple[dict[str, Any], list[str]]:
        reference = real.statistics()
        reconstruction = score_reconstructions(measured, reference, tokenizer, evaluation_set, extractor, perceptual)
        scores: dict[str, Any] = {"reconstruction": reconstruction.as_dict()}
        lines = [
            f"{reconstruction.protocol['score']} {reconstruction.reconstruction_frechet_distance:.3f}, "
            f"PSNR {reconstruction.psnr:.2f} dB, SSIM {reconstruction.ssim:.4f}, "
            f"utilization {reconstruction.utilization:.4f}, perplexity {reconstruction.perplexity:.1f}, "
            f"E {reconstruction.quantization_error:.4f}, relative E {reconstruction.relative_quantization_error:.4f} "
            f"({reconstruction.num_images} evaluation images)"
        ]
        if config.scores:
            scores["reconstruction"]["scores"] = more(measured.features)
            lines.append(f"reconstructions: {_line(scores['reconstruction']['scores'])}")
        if samples is not None:
            generation = evaluate_generation(samples, reference, extractor, dict(samples.images["sampling"]))
            scores["generation"] = generation.as_dict()
            lines.append(
                f"{generation.protocol['score']} {generation.generation_frechet_distance:.3f} "
                f"({generation.num_generated} generated, {generation.num_reference} reference images)"
            )
            if config.scores:
                scores["generation"]["scores"] = more(samples)
                lines.append(f"samples: {_line(scores['generation']['scores'])}")
        return scores, lines

    return score


def _measure_images(config: Evaluation, extractor: Extractor, device: torch.device, parts: Parts) -> Score:
    """All passes of images from a folder or an .npz; what they return gives the scores."""
    assert config.images is not None
    generated_images = open_images(config.images, config.data.channels)
    reference = _reference(config)
    described = reference.dataset if isinstance(reference, ReferenceStatistics) else reference.description
    check_same_images(described, generated_images.description)
    names = config.scores or ["fid"]
    counts = {"generated": len(generated_images)}
    if not isinstance(reference, ReferenceStatistics):
        counts["reference"] = len(reference)
    few = config.allow_few_images or not {"fid", "fid-infinity", "mifid"} & set(names)
    check_enough_images(counts, extractor.num_features, few)
    real: FeatureSet | ReferenceStatistics
    if isinstance(reference, ReferenceStatistics):
        if config.save_reference is not None:
            raise InputError(f"save_reference is {config.save_reference}, but {config.reference} is statistics already")
        reference.check_extractor(extractor.protocol)
        real, num_reference = reference, reference.count
    else:
        real = extract_features(reference, extractor, parts=parts)
        num_reference = len(real)
    generated = extract_features(generated_images, extractor, with_logits="is" in names, parts=parts)

    def score() -> tuple[dict[str, Any], list[str]]:
        if config.save_reference is not None and isinstance(real, FeatureSet):
            real.statistics().save(config.save_reference)
        results = score_features(real, generated, names, config.allow_few_images)
        protocol = {
            "extractor": extractor.protocol,
            "reference": described,
            "num_reference": num_reference,
            "generated": generated_images.description,
            "num_generated": len(generated),
        }
        counts = f"{len(generated)} generated, {num_reference or 'an unknown number of'} reference images"
        return {"images": {"scores": results, "protocol": protocol}}, [f"{_line(results)} ({counts})"]

    return score


def _reference(config: Evaluation) -> ReferenceStatistics | ImageDataset | Any:
    """Images or statistics that `config.reference` names."""
    if config.reference is None:
        return load_splits(config.data)[0]
    path = Path(config.reference)
    if (path / "protocol.json").is_file() or (path.suffix == ".npz" and not ImageArchive.holds_images(path)):
        return ReferenceStatistics.load(path)
    return open_images(path, config.data.channels)


def _line(results: dict[str, dict[str, Any]]) -> str:
    """Each score by its name, with what says how sure it is."""
    parts = []
    for result in results.values():
        part = f"{result['score']} {result['value']:.4g}"
        if "low" in result:
            part += f" [{result['low']:.4g}, {result['high']:.4g}]"
        elif "deviation" in result:
            part += f" +- {result['deviation']:.2g}"
        parts.append(part)
    return ", ".join(parts)
