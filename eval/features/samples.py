"""Features of what a pipeline generates, drawn as they are needed: the images themselves are not kept."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from tqdm import tqdm

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions, sample_images
from wvq.tokenizer.storage.pretrained import state_sha256

from .chunks import Chunks
from .extractor import Extractor
from .feature_set import FeatureSet, finite_features, joined


@torch.no_grad()
def sample_features(
    pipeline: ClassConditionalPipeline,
    num_images: int,
    sampling: SamplingOptions,
    extractor: Extractor,
    chunks: Chunks | None = None,
    with_spatial: bool = False,
) -> FeatureSet:
    """Generate num_images images, the classes in turn, and extract their features, chunk by chunk.

    Image i depends on the seed and i alone, so it is the same in whatever process and after whatever interruption. How
    images were made, fingerprints of the models included, is `FeatureSet.images["sampling"]`.

    Args:
        pipeline: without classes, too.
        num_images: N.
        sampling: how images are drawn.
        extractor: of features.
        chunks: where features are kept, for processes to share the work and for another start to go on with it.
        with_spatial: whether the features of sFID are wanted as well.
    """
    num_classes = pipeline.prior.config.num_classes
    labels = torch.arange(num_images) % max(1, num_classes)

    def work(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for numbers in ranges:
            images = sample_images(pipeline, labels[list(numbers)], sampling, numbers, tqdm(disable=True))
            yield finite_features(extractor, torch.cat(list(images)), with_spatial)

    models = {"tokenizer": pipeline.tokenizer.fingerprint, "prior": state_sha256(pipeline.prior)}
    made = {**asdict(sampling), **models, "classes": "in equal shares"}
    about = {
        "sampling": {key: value for key, value in made.items() if key != "batch_size"},  # which changes no image
        "extractor": extractor.protocol,
        "device": pipeline.device.type,
    } | ({"spatial": True} if with_spatial else {})
    features = joined((chunks or Chunks()).run("samples", about, num_images, work))
    images = {"source": "samples", "sampling": made}
    return FeatureSet(
        features["vectors"],
        labels if num_classes else None,
        None,
        extractor.protocol,
        images,
        tuple(pipeline.class_names),
        features.get("spatial"),
    )
