"""`wvq evaluate`: the scores of a tokenizer, or of a pipeline, with their protocol."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.sample import SamplingOptions, sample_images
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig, load_splits
from wvq.tokenizer.saving import write_json

from .extractors import Extractor, build_extractor
from .reference import ReferenceStatistics
from .scores import GenerationScores, evaluate_generation, evaluate_reconstruction, reference_statistics


@dataclass(frozen=True)
class Evaluation:
    """Scores of reconstructions and, for a pipeline, of generated images."""

    tokenizer: str | None = None
    """Folder or hub repository of a tokenizer, to score its reconstructions alone."""
    pipeline: str | None = None
    """Folder or hub repository of a pipeline, to score its tokenizer and its samples."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images; both scores refer to the evaluation split."""
    extractor: str = "inception"
    """inception or efficientnet-lite0."""
    extractor_weights: str | None = None
    """File with the extractor's weights, where they are not in the usual place."""
    num_images: int = 5_000
    """Images that are generated, the classes in equal shares."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How they are drawn."""
    output: str | None = None
    """JSON file for scores and protocol."""

    def __post_init__(self) -> None:
        if (self.tokenizer is None) == (self.pipeline is None):
            raise InputError(f"tokenizer is {self.tokenizer} and pipeline is {self.pipeline}; give one of the two")
        if self.num_images < 2:
            raise InputError(f"num_images is {self.num_images}; it must be at least 2")


def evaluate(config: Evaluation) -> str:
    """Score, write `output` if it is given, and return the scores as lines of text.

    Raises:
        InputError: for a tokenizer, pipeline, data or weights that cannot be read.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = build_extractor(config.extractor, config.extractor_weights).to(device)
    pipeline = None
    if config.pipeline is not None:
        pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline).to(device)
        tokenizer = pipeline.tokenizer
    else:
        assert config.tokenizer is not None
        tokenizer = VQTokenizer.from_pretrained(config.tokenizer).to(device)
    _, evaluation_set = load_splits(config.data)
    reference = reference_statistics(evaluation_set, extractor)
    reconstruction = evaluate_reconstruction(tokenizer, evaluation_set, extractor, reference)
    scores: dict[str, Any] = {"reconstruction": reconstruction.as_dict()}
    lines = [
        f"{reconstruction.protocol['score']} {reconstruction.reconstruction_frechet_distance:.3f}, "
        f"PSNR {reconstruction.psnr:.2f} dB, SSIM {reconstruction.ssim:.4f}, "
        f"utilization {reconstruction.utilization:.4f}, perplexity {reconstruction.perplexity:.1f}, "
        f"E {reconstruction.quantization_error:.4f}, relative E {reconstruction.relative_quantization_error:.4f} "
        f"({reconstruction.num_images} evaluation images)"
    ]
    if pipeline is not None:
        generation = score_samples(pipeline, config.num_images, config.sampling, reference, extractor)
        scores["generation"] = generation.as_dict()
        lines.append(
            f"{generation.protocol['score']} {generation.generation_frechet_distance:.3f} "
            f"({generation.num_generated} generated, {generation.num_reference} reference images)"
        )
    if config.output:
        write_json(Path(config.output), scores)
    return "\n".join(lines)


def score_samples(
    pipeline: ClassConditionalPipeline,
    num_images: int,
    sampling: SamplingOptions,
    reference: ReferenceStatistics,
    extractor: Extractor,
) -> GenerationScores:
    """Generate num_images images, the classes in turn, and score them as they come."""
    labels = torch.arange(num_images) % max(1, pipeline.prior.config.num_classes)
    images = sample_images(pipeline, labels, sampling)
    about = {**asdict(sampling), "tokenizer": pipeline.tokenizer.fingerprint, "classes": "in equal shares"}
    return evaluate_generation(images, reference, extractor, sampling=about, progress=False)
