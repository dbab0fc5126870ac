"""Settings scored one after the other with the same random numbers, so that only the setting differs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions, check_options
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError

from ..feature_scores import BY_CLASS, score_features
from ..features.chunks import Chunks
from ..features.classes import labels_by_name
from ..features.extractor import Extractor
from ..features.feature_set import FeatureSet
from ..features.samples import sample_features
from ..frechet_metric import check_enough_images
from ..references import classes_of_samples


@dataclass(frozen=True)
class ScoredSetting:
    """A setting and its scores, by name as `score_features` gives them; "fid" is always there."""

    setting: SamplingOptions
    scores: dict[str, dict[str, Any]]

    @property
    def distance(self) -> float:
        """The Fréchet distance, by which settings are ranked: the lower, the better."""
        return self.scores["fid"]["value"]


def check_settings(pipeline: ClassConditionalPipeline, settings: Sequence[SamplingOptions]) -> None:
    """Raises: InputError: unless settings have one seed, and the pipeline can be sampled with each of them."""
    if len(seeds := {setting.seed for setting in settings}) > 1:
        raise InputError(f"settings have the seeds {sorted(seeds)}; one for all of them makes them comparable")
    classes = pipeline.labels_of([*range(pipeline.prior.config.num_classes)] or None)
    for setting in settings:
        check_options(pipeline, classes, setting)


def sweep(
    pipeline: ClassConditionalPipeline,
    reference: FeatureSet,
    extractor: Extractor,
    settings: Sequence[SamplingOptions],
    num_generated: int,
    scores: Sequence[str] = (),
    allow_few_images: bool = False,
    chunks: Chunks | None = None,
) -> Iterator[ScoredSetting]:
    """Generate images in each setting and score them, setting by setting; a collective call.

    Image i has the same class and the same random numbers in all of them (common random numbers): settings of one seed
    differ by what they do, much less by luck.

    Args:
        pipeline: where it is, the images are generated.
        reference: features of the reference images, of the same extractor.
        extractor: of features.
        settings: of one seed.
        num_generated: images of each setting, the classes in turn.
        scores: further ones than the Fréchet distance, of `FEATURE_SCORES`.
        allow_few_images: whether to give a Fréchet distance of no more images than dimensions.
        chunks: where features are kept, for processes to share the work and for another start to go on with it.

    Raises:
        InputError: as `check_settings` and `score_features`.
    """
    check_settings(pipeline, settings)
    names = list(dict.fromkeys(["fid", *scores]))
    counts = {"generated": num_generated, "reference": len(reference)}
    check_enough_images(counts, extractor.num_features, allow_few_images)
    for name in BY_CLASS.keys() & set(names):
        labels_by_name(reference.classes, classes_of_samples(pipeline, num_generated), same_classes=BY_CLASS[name])
    for setting in settings:
        features = sample_features(pipeline, num_generated, setting, extractor, chunks, "sfid" in names)
        if "is" in names:
            features = replace(features, logits=extractor.logits(features.vectors).cpu())
        measured = on_first_process(partial(score_features, reference, features, names, allow_few_images))
        yield ScoredSetting(setting, measured)
