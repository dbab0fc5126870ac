"""pFID (arXiv 2503.08354): the distance of reconstructions from tokens of which a share is replaced by near ones.

A prior's samples hold tokens that it got wrong. How much such tokens cost depends on the tokenizer alone, so this says
something of generation before any prior is trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.data.decoding import to_model, to_uint8
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.model import VQTokenizer

from .features.chunks import Chunks
from .features.extractor import Extractor
from .features.feature_set import FeatureSet, ImageSource, extract_features, finite_features, read_chunks
from .features.reconstructions import evaluating
from .metrics.frechet import frechet_distance, mean_and_factor
from .metrics.perturbation import nearest_other_codes, perturb_tokens
from .score_names import score_label

RATES = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of an image's tokens that are replaced: the paper's alpha."""
STRENGTHS = (200, 280, 360)
"""Nearest codes that a token is replaced by: the paper's delta, for `STRENGTHS_OF` codes."""
STRENGTHS_OF = 16_384
"""The paper scales delta in proportion to K and does not say of which K its numbers are; we take its largest."""


@dataclass(frozen=True)
class PerturbationScores:
    """The distance of perturbed reconstructions to the very images they come from, called `protocol["score"]`.

    Attributes:
        perturbed_frechet_distance: mean over all rates and strengths.
        num_images: N.
        by_setting: {"rate", "strength", "distance"} of each.
        protocol: JSON-able.
    """

    perturbed_frechet_distance: float
    num_images: int
    by_setting: list[dict[str, float]]
    protocol: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Scores and protocol, JSON-able."""
        return asdict(self)


def check_perturbed_images(count: int) -> None:
    """Raises: InputError: for a number of images, 0 for none, of which there is no covariance."""
    if count < 0 or count == 1:
        raise InputError(f"perturbed_images is {count}; it must be at least 2, or 0 for none")


class SomeImages:
    """An `ImageSource` of `count` images from all over a data set; of all, if it has no more."""

    def __init__(self, dataset: ImageDataset, count: int):
        self._dataset, self._chosen = dataset, evenly_spaced(len(dataset), count)
        self.description = dataset.description | {"evenly_spaced": len(self._chosen)}
        self.num_workers, self.class_names = dataset.num_workers, dataset.class_names

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self._dataset.take(self._chosen[torch.as_tensor(indices)])


@torch.no_grad()
def evaluate_perturbation(
    tokenizer: VQTokenizer,
    images: ImageSource,
    extractor: Extractor,
    originals: FeatureSet | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    chunks: Chunks | None = None,
) -> PerturbationScores:
    """Score reconstructions from perturbed tokens: each image once for each of `RATES` x `STRENGTHS`.

    Of K codes a token is replaced by one of the round(K / STRENGTHS_OF * strength) nearest others, at least 1; in every
    codebook by itself where there are several. Every image is perturbed (the paper's beta is 1). What is ours: that the
    token itself is none of its neighbours, and that all settings share their draws (`perturb_tokens`), so that their
    differences are those of rate and strength.

    Args:
        tokenizer: left in the mode in which it came.
        images: such as the evaluation images, or `SomeImages` of them.
        extractor: for the Fréchet distance.
        originals: its features of the same images, if they are there already.
        batch_size: images at once; it changes nothing but rounding.
        seed: of all draws.
        progress: whether to show bars.
        chunks: where results are kept, for processes to share the work and for another start to go on with it.

    Raises:
        InputError: if the images do not fit the tokenizer, are fewer than 2, or `originals` are of others.
    """
    if originals is None:
        originals = extract_features(images, extractor, progress=progress, chunks=chunks)
    if originals.images != images.description or len(images) < 2:
        raise InputError(
            f"there are {len(images)} images of {images.description}, and originals of {originals.images}; "
            "at least 2 of the same are needed"
        )
    chunks, device, size = chunks or Chunks(), tokenizer.device, tokenizer.config.codebook_size
    about = {
        "images": images.description,
        "tokenizer": tokenizer.fingerprint,
        "batch_size": batch_size,
        "device": device.type,
    }

    def encode(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for batch in read_chunks(images, ranges):
            parts = batch["images"].split(batch_size)
            yield {"indices": torch.cat([tokenizer.encode(to_model(part.to(device))).cpu() for part in parts])}

    def perturbed_distance(rate: float, strength: int) -> float:
        def work(ranges: Sequence[range]) -> Iterator[dict[str, Tensor]]:
            for numbers in ranges:
                rows = []
                for some in torch.tensor(numbers).split(batch_size):
                    tokens = perturb_tokens(indices[some].to(device), neighbours, rate, strength, some.tolist(), seed)
                    rows.append(finite_features(extractor, to_uint8(tokenizer.decode(tokens)))["vectors"])
                yield {"vectors": torch.cat(rows)}

        setting = {"extractor": extractor.protocol, "rate": rate, "strength": strength, "seed": seed}
        made = chunks.run("perturbed", about | setting, len(images), work, progress)
        return float(frechet_distance(*real, *mean_and_factor(torch.cat([chunk["vectors"] for chunk in made]))))

    strengths = {given: min(max(1, round(size / STRENGTHS_OF * given)), size - 1) for given in STRENGTHS}
    real = originals.mean_and_factor()
    with evaluating(tokenizer):
        indices = torch.cat([c["indices"] for c in chunks.run("tokens", about, len(images), encode, progress)])
        neighbours = [nearest_other_codes(codes, max(strengths.values())) for codes in tokenizer.codebooks]
        by_setting = [
            {"rate": rate, "strength": strength, "distance": perturbed_distance(rate, strengths[strength])}
            for rate, strength in product(RATES, STRENGTHS)
        ]
    protocol = {
        "score": score_label("pFID", extractor.protocol),
        "extractor": extractor.protocol,
        "reference": images.description,
        "tokenizer": tokenizer.fingerprint,
        "rates": list(RATES),
        "strengths": list(STRENGTHS),
        "strengths_of": STRENGTHS_OF,
        "nearest_codes": list(strengths.values()),
        "seed": seed,
    }
    distances = [setting["distance"] for setting in by_setting]
    return PerturbationScores(sum(distances) / len(distances), len(images), by_setting, protocol)
