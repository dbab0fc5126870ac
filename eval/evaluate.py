"""`wvq evaluate`: the scores of a tokenizer, of a pipeline, or of any images, with their protocol."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.processes import this_process
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.image_size import size_in_json
from wvq.tokenizer.storage.atomic import write_json

from .codebook import draw_codebook_figure, examine_tokenizer
from .feature_scores import Real, score_features
from .features.chunks import Chunks
from .features.classes import Classes
from .features.extractor import Extractor
from .features.feature_set import FeatureSet, extract_features
from .features.image_sources import open_images
from .features.reconstructions import measure_reconstructions
from .features.reference import ReferenceStatistics
from .features.registry import build_extractor
from .features.samples import sample_features
from .frechet_metric import check_enough_images
from .metrics.perceptual import PerceptualSimilarity
from .options import Evaluation
from .perturbation import SomeImages, evaluate_perturbation
from .references import check_comparable, classes_of_samples, describe, open_reference, reference_features
from .scores import ReconstructionScores, evaluate_generation, score_reconstructions

__all__ = ["Evaluation", "evaluate"]

Scoring = Callable[[], tuple[dict[str, Any], list[str]]]  # scores to be written, and lines to be printed


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
    report = examine_tokenizer(tokenizer, load_splits(config.data.sized(tokenizer.config))[1])
    if config.output:
        write_json(Path(config.output), report.as_dict())
        draw_codebook_figure(report, Path(config.output).with_suffix(".png"))
    return str(report)


def _measure_models(config: Evaluation, extractor: Extractor, device: torch.device, chunks: Chunks) -> Scoring:
    """All passes of a tokenizer and a pipeline; what they return gives the scores."""
    tokenizer, pipeline = _load(config, device)
    config = replace(config, data=config.data.sized(tokenizer.config))
    splits = load_splits(config.data)
    originals = splits[1]
    check_enough_images({"evaluation": len(originals)}, extractor.num_features, config.allow_few_images)
    if config.perturbed_images:
        few = min(len(originals), config.perturbed_images)
        check_enough_images({"perturbed": few}, extractor.num_features, config.allow_few_images)
    reference, with_spatial, names = None, "sfid" in config.scores, ["fid", *config.scores]
    if pipeline is not None:
        reference = open_reference(config, splits)
        size = {"image_size": size_in_json(tokenizer.config.image_size), "channels": tokenizer.config.channels}
        drawn = classes_of_samples(pipeline, config.num_images)
        check_comparable(config, reference, size, config.num_images, names, extractor, drawn)
    perceptual = PerceptualSimilarity("alex", config.lpips_weights).to(device) if config.lpips_weights else None
    original_features = extract_features(originals, extractor, chunks=chunks, with_spatial=with_spatial)
    measured = measure_reconstructions(
        tokenizer, originals, extractor, perceptual=perceptual, chunks=chunks, with_spatial=with_spatial
    )
    perturbation = None
    if config.perturbed_images:
        images = SomeImages(originals, config.perturbed_images)
        perturbation = evaluate_perturbation(tokenizer, images, extractor, chunks=chunks)
    generated = None
    if pipeline is not None and reference is not None:
        real = reference_features(config, reference, names, extractor, chunks)
        samples = sample_features(pipeline, config.num_images, config.sampling, extractor, chunks, with_spatial)
        generated = samples, real

    def more(against: Real, features: FeatureSet, paired: bool = False) -> dict[str, Any]:
        if "is" in config.scores:
            features = replace(features, logits=extractor.logits(features.vectors).cpu())
        return score_features(against, features, config.scores, config.allow_few_images, config.resamples, paired)

    def score() -> tuple[dict[str, Any], list[str]]:
        statistics = original_features.statistics()
        reconstruction = score_reconstructions(measured, statistics, tokenizer, originals, extractor, perceptual)
        scores: dict[str, Any] = {"reconstruction": reconstruction.as_dict()}
        lines = [_reconstruction_line(reconstruction)]
        if config.scores:
            scores["reconstruction"]["scores"] = more(original_features, measured.features, paired=True)
            lines.append(f"reconstructions: {_line(scores['reconstruction']['scores'])}")
        if perturbation is not None:
            scores["perturbation"] = perturbation.as_dict()
            distance, count = perturbation.perturbed_frechet_distance, perturbation.num_images
            lines.append(f"{perturbation.protocol['score']} {distance:.3f} ({count} evaluation images)")
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
    images = open_images(config.images, config.data.shape[0], config.data.num_workers)
    size = config.data.image_size or images.description["image_size"]
    reference = open_reference(replace(config, data=replace(config.data, image_size=size)))
    names = config.scores or ["fid"]
    classes = Classes(images.labels, images.class_names, config.images)
    check_comparable(config, reference, images.description, len(images), names, extractor, classes)
    real = reference_features(config, reference, names, extractor, chunks)
    generated = extract_features(
        images, extractor, with_logits="is" in names, chunks=chunks, with_spatial="sfid" in names
    )
    num_reference = real.count if isinstance(real, ReferenceStatistics) else len(real)

    def score() -> tuple[dict[str, Any], list[str]]:
        results = score_features(real, generated, names, config.allow_few_images, config.resamples)
        protocol = {
            "extractor": extractor.protocol,
            "reference": describe(reference),
            "num_reference": num_reference,
            "generated": images.description,
            "num_generated": len(generated),
        }
        line = f"{_line(results)} {_counts(len(generated), num_reference)}"
        return {"images": {"scores": results, "protocol": protocol}}, [line]

    return score


def _counts(generated: int, reference: int | None) -> str:
    return f"({generated} generated, {reference or 'an unknown number of'} reference images)"


def _reconstruction_line(scores: ReconstructionScores) -> str:
    return (
        f"{scores.protocol['score']} {scores.reconstruction_frechet_distance:.3f}, "
        f"PSNR {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f}, "
        f"utilization {scores.utilization:.4f}, perplexity {scores.perplexity:.1f}, "
        f"{''.join(f'{name} {value:.4g}, ' for name, value in scores.by_scale.items())}"
        f"token entropy {scores.token_entropy:.1f} bits an image, "
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
