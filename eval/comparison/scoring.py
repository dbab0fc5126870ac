"""What the runs of a comparison are measured against, and the scores of one."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import sample_images
from wvq.pipelines.processes import this_device
from wvq.pipelines.sharing.card import write_card
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.storage.atomic import write_json

from ..features.extractor import Extractor
from ..features.feature_set import FeatureSet, extract_features
from ..features.reference import ReferenceStatistics
from ..features.registry import build_extractor
from ..perturbation import SomeImages, evaluate_perturbation
from ..scores import evaluate_generation, evaluate_reconstruction, reference_statistics
from .clock import Clock
from .collect import load_run
from .config import Cell, Comparison
from .own_sampling import own_sampling, sweep_yardstick


@dataclass(frozen=True, eq=False)
class References:
    """What all runs of a comparison are measured against, taken once for all processes.

    Attributes:
        evaluation: of the evaluation images.
        perturbed: features of the images whose tokens are perturbed, if any are.
        sweep: features of the training images that settings of the sampler are chosen by, if they are.
    """

    evaluation: ReferenceStatistics
    perturbed: FeatureSet | None
    sweep: FeatureSet | None


def take_references(config: Comparison, train_set: ImageDataset, evaluation_set: ImageDataset) -> References:
    """The features that runs are compared by.

    Raises:
        InputError: for an extractor that is not there.
    """
    extractor = build_extractor(config.extractor, config.extractor_weights).to(this_device())
    perturbed = SomeImages(evaluation_set, config.perturbed_images)
    yardstick = sweep_yardstick(config, train_set, extractor)
    return References(
        reference_statistics(evaluation_set, extractor),
        extract_features(perturbed, extractor) if config.perturbed_images else None,
        yardstick.reference if yardstick else None,
    )


def score_cell(config: Comparison, cell: Cell, references: References) -> None:
    """Write scores.json of a cell whose stages are trained; before it, the card of its pipeline."""
    folder, device = Path(config.output_dir) / cell.folder, this_device()
    train_set, evaluation_set = load_splits(config.data)
    extractor = build_extractor(config.extractor, config.extractor_weights).to(device)
    tokenizer, pipeline = load_run(folder, config.tokenizers_only, device)
    yardstick = sweep_yardstick(config, train_set, extractor, references.sweep)
    own = replace(config, sampling=own_sampling(config, cell, pipeline, yardstick))
    clock = Clock(folder / "seconds.json")
    scores = score(own, tokenizer, pipeline, evaluation_set, references.evaluation, extractor, clock)
    if references.perturbed is not None:
        with clock.measure("evaluation"):
            perturbed = SomeImages(evaluation_set, config.perturbed_images)
            found = evaluate_perturbation(tokenizer, perturbed, extractor, references.perturbed)
            scores["perturbation"] = found.as_dict()
    if pipeline is not None:
        write_card(folder / "prior" / "pipeline", pipeline, scores)
    write_json(folder / "scores.json", scores)  # last: it makes the cell a finished one


def score(
    config: Comparison,
    tokenizer: VQTokenizer,
    pipeline: ClassConditionalPipeline | None,
    evaluation_set: ImageDataset,
    reference: ReferenceStatistics,
    extractor: Extractor,
    clock: Clock,
) -> dict[str, Any]:
    """All scores of one run, with their protocols and the histogram of its codes."""
    with clock.measure("evaluation"):
        reconstruction = evaluate_reconstruction(tokenizer, evaluation_set, extractor, reference)
    scores: dict[str, Any] = {
        "reconstruction": reconstruction.as_dict(),
        "code_histogram": reconstruction.code_histogram.tolist(),
        "perturbation": None,
        "generation": None,
    }
    if pipeline is not None:
        labels = torch.arange(config.num_generated) % max(1, pipeline.prior.config.num_classes)
        images = sample_images(pipeline, labels, config.sampling)
        about = {**asdict(config.sampling), "classes": "in equal shares", "tokenizer": tokenizer.fingerprint}
        generation = evaluate_generation(
            clock.each("sampling", images), reference, extractor, sampling=about, progress=False
        )
        scores["generation"] = generation.as_dict()
    return scores
