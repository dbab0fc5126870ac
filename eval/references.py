"""What generated images are compared with: images, statistics of some, or both, and whether they may be."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.untrusted import user_path

from .feature_scores import BY_CLASS, OF_STATISTICS, Real, check_statistics_suffice
from .features.chunks import Chunks
from .features.classes import Classes, labels_by_name
from .features.extractor import Extractor
from .features.feature_set import extract_features
from .features.image_sources import ImageArchive, ImageFolder, open_images
from .features.reference import ReferenceStatistics, check_same_images
from .frechet_metric import check_enough_images
from .options import Evaluation

Reference = ReferenceStatistics | ImageDataset | ImageFolder | ImageArchive


def open_reference(config: Evaluation, splits: tuple[ImageDataset, ImageDataset] | None = None) -> Reference:
    """Images or statistics that generated images are compared with.

    Args:
        config: what is asked for.
        splits: of its data, if they are loaded already.

    Raises:
        InputError: for a reference or data that cannot be read.
    """
    if config.reference is None:
        return (splits or load_splits(config.data))[config.reference_split == "evaluation"]
    path = user_path(config.reference)
    if (path / "protocol.json").is_file() or (path.suffix == ".npz" and not ImageArchive.holds_images(path)):
        return ReferenceStatistics.load(path)
    return open_images(path, config.data.shape[0], config.data.num_workers)


def statistics_of(reference: Reference) -> ReferenceStatistics | None:
    """The statistics that a reference is, or has beside its images."""
    return reference if isinstance(reference, ReferenceStatistics) else getattr(reference, "statistics", None)


def check_comparable(
    config: Evaluation,
    reference: Reference,
    images: dict[str, Any],
    count: int,
    names: Sequence[str],
    extractor: Extractor,
    classes: Classes,
) -> None:
    """Refuse what would be refused after the passes, before them.

    Args:
        config: what is asked for.
        reference: of `open_reference`.
        images: description of the images to be scored.
        count: how many there are.
        names: of the scores.
        extractor: of features.
        classes: of the images to be scored.

    Raises:
        InputError: for scores that the reference does not suffice for, images of another protocol, too few of them,
            and classes that the reference does not have.
    """
    statistics = statistics_of(reference)
    if statistics is not None:
        if config.save_reference is not None:
            raise InputError(f"save_reference is {config.save_reference}, but {config.reference} is statistics already")
        statistics.check_extractor(extractor.protocol)
        alone = isinstance(reference, ReferenceStatistics)
        check_statistics_suffice(names if alone else [name for name in names if name in OF_STATISTICS], statistics)
    check_same_images(describe(reference), images)
    counts = {"generated": count}
    if not isinstance(reference, ReferenceStatistics) and statistics is None:
        counts["reference"] = len(reference)
    few = config.allow_few_images or not {"fid", "fid-infinity", "mifid"} & set(names)
    check_enough_images(counts, extractor.num_features, few)
    there = _classes_of(reference)
    if there is not None:
        for name in BY_CLASS.keys() & set(names):
            labels_by_name(there, classes, same_classes=BY_CLASS[name])


def reference_features(
    config: Evaluation, reference: Reference, names: Sequence[str], extractor: Extractor, chunks: Chunks
) -> Real:
    """The reference's statistics where they suffice; else features of all its images, their statistics saved."""
    statistics = statistics_of(reference)
    if isinstance(reference, ReferenceStatistics) or (statistics is not None and set(names) <= set(OF_STATISTICS)):
        assert statistics is not None
        return statistics
    with_spatial = "sfid" in names and statistics is None
    features = extract_features(reference, extractor, chunks=chunks, with_spatial=with_spatial)
    if config.save_reference is not None:
        on_first_process(partial(features.statistics().save, config.save_reference))
    return replace(features, published=statistics)


def describe(reference: Reference) -> dict[str, Any]:
    """What the reference is, JSON-able."""
    if isinstance(reference, ReferenceStatistics):
        return reference.dataset
    statistics = statistics_of(reference)
    about = dict(reference.description)
    return about if statistics is None else about | {"frechet_distances": "to the statistics in the same file"}


def classes_of_samples(pipeline: ClassConditionalPipeline, num_images: int) -> Classes:
    """Of what a pipeline is to draw, the classes in turn."""
    num_classes = pipeline.prior.config.num_classes
    labels = torch.arange(min(num_images, num_classes)) if num_classes else None
    return Classes(labels, tuple(pipeline.class_names), "samples")


def _classes_of(reference: Reference) -> Classes | None:
    """Those of the reference's images; None where that is known only after a pass, or there are no images."""
    if isinstance(reference, ReferenceStatistics) or getattr(reference, "streamed", False):
        return None
    labels = reference.labels if reference.description["classes"] else None
    return Classes(labels, tuple(reference.class_names), str(reference.description["source"]))
