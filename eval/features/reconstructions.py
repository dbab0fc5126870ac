"""What a tokenizer makes of a data set, in one pass: all that the scores of its reconstructions are computed from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.data.decoding import to_model, to_uint8
from wvq.tokenizer.metrics import ReconstructionQuality
from wvq.tokenizer.model import VQTokenizer
from wvq.tokenizer.precision import float64_device, full_precision

from ..metrics.image_quality import MS_SSIM_ABOVE, multiscale_ssim, psnr_luma
from ..metrics.perceptual import PerceptualSimilarity
from .chunks import Chunks
from .extractor import Extractor
from .feature_set import FeatureSet, finite_features, read_chunks


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """Of a whole data set.

    Attributes:
        features: of the reconstructions.
        quality: the states of `wvq.tokenizer.metrics.ReconstructionQuality`, over all images.
        measures: by name a value for each image, (N,) float64: psnr_luma, above 175 pixels ms_ssim, and lpips if there
            is a network for it.
    """

    features: FeatureSet
    quality: dict[str, Tensor]
    measures: dict[str, Tensor]


@torch.no_grad()
def measure_reconstructions(
    tokenizer: VQTokenizer,
    dataset: ImageDataset,
    extractor: Extractor,
    batch_size: int = 64,
    progress: bool = True,
    perceptual: PerceptualSimilarity | None = None,
    chunks: Chunks | None = None,
    with_spatial: bool = False,
) -> Reconstructions:
    """Encode and decode all images, where the tokenizer and the extractor are.

    Args:
        tokenizer: left in the mode in which it came.
        dataset: the images.
        extractor: of features.
        batch_size: images at once; on a CPU more of them are slower.
        progress: whether to show a bar.
        perceptual: network of LPIPS.
        chunks: where results are kept, for processes to share the work and for another start to go on with it.
        with_spatial: whether the features of sFID are wanted as well.

    Raises:
        InputError: if the images do not fit the tokenizer.
    """
    device = tokenizer.device
    per_image: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_luma": psnr_luma}
    if min(dataset[0]["images"].shape[-2:]) > MS_SSIM_ABOVE:
        per_image["ms_ssim"] = multiscale_ssim
    if perceptual is not None:
        per_image["lpips"] = perceptual

    feature_names = ("vectors", "spatial") if with_spatial else ("vectors",)

    def work(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for batch in read_chunks(dataset, ranges):
            config = tokenizer.config
            quality = ReconstructionQuality(config.num_codes, config.codebook_dim, config.scales)
            quality = quality.to(float64_device(device))
            rows: dict[str, list[Tensor]] = {name: [] for name in (*feature_names, *per_image)}
            for images in batch["images"].split(batch_size):
                originals = images.to(device)
                features = tokenizer.features(to_model(originals))
                indices = tokenizer.quantizer(features).indices
                reconstructions = to_uint8(tokenizer.decode(indices))
                codes = tokenizer.quantizer.lookup(indices)
                unquantized = tokenizer.quantizer.unquantized(features)
                quality.update(originals, reconstructions, unquantized, tokenizer.to_sequence(indices), codes)
                for name, values in finite_features(extractor, reconstructions, with_spatial).items():
                    rows[name].append(values)
                for name, measure in per_image.items():
                    rows[name].append(measure(originals, reconstructions).cpu().double())
            states: dict[str, Any] = quality.metric_state
            measured = {name: torch.cat(values) for name, values in rows.items()} | {"labels": batch["labels"]}
            yield measured | {name: state.cpu() for name, state in states.items()}

    about = {
        "images": dataset.description,
        "tokenizer": tokenizer.fingerprint,
        "extractor": extractor.protocol,
        "lpips": None if perceptual is None else perceptual.protocol,
        "batch_size": batch_size,
        "device": device.type,
    } | ({"spatial": True} if with_spatial else {})
    with evaluating(tokenizer):
        made = (chunks or Chunks()).run("reconstructions", about, len(dataset), work, progress)
    rows = {name: torch.cat([chunk[name] for chunk in made]) for name in (*feature_names, "labels", *per_image)}
    quality = {name: torch.stack([chunk[name] for chunk in made]).sum(dim=0) for name in made[0].keys() - rows.keys()}
    labels = rows.pop("labels")
    labels = labels if dataset.class_names else None
    features = FeatureSet(
        rows.pop("vectors"),
        labels,
        None,
        extractor.protocol,
        {"source": "reconstructions"},
        dataset.class_names,
        rows.pop("spatial", None),
    )
    return Reconstructions(features, quality, rows)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and full precision inside; afterwards every module is in the mode it was in."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with full_precision():
            yield
    finally:
        for child, training in modes.items():
            child.training = training
