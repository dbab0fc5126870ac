"""Whether a generator copies: the nearest training image of each sample, and MiFID (arXiv 2106.03062)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer.errors import InputError

_BLOCK = 2**25  # distances at once
_THRESHOLD = 0.1  # mean cosine distances from here on count as no memorisation


def nearest_training_images(generated: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine distance (M,) float64 in [0, 2] of each generated feature vector to the nearest training one, and its
    index (M,).

    Args:
        generated, training: features (M, d) and (N, d).

    Raises:
        InputError: for a side without vectors.
    """
    if not len(generated) or not len(training):
        raise InputError(
            f"{len(generated)} generated and {len(training)} training images; at least 1 of each is needed"
        )
    units, targets = F.normalize(generated.double()), F.normalize(training.double())
    found = [(part @ targets.mT).max(dim=1) for part in units.split(max(1, _BLOCK // len(targets)))]
    return 1 - torch.cat([x.values for x in found]), torch.cat([x.indices for x in found])


def memorization_distance(generated: Tensor, training: Tensor) -> float:
    """Mean over generated images of 1 - |cos| to the nearest training image: 0 for a generator that copies.

    torchmetrics takes the mean over the training images instead, which says nothing about copies.
    """
    nearest = torch.minimum(
        nearest_training_images(generated, training)[0], nearest_training_images(-generated, training)[0]
    )
    return float(nearest.mean())


def memorization_informed_distance(frechet_distance: float, distance: float) -> float:
    """MiFID: the Fréchet distance over the memorisation distance where that is below 0.1, else as it is.

    Args:
        frechet_distance: of the same features.
        distance: `memorization_distance`, in [0, 1].
    """
    return frechet_distance / max(distance, 1e-14) if distance < _THRESHOLD else frechet_distance
