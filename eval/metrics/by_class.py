"""Scores of labelled sets: the Fréchet distance within classes, and whether a classifier sees the class asked for."""

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

from .frechet import frechet_distance, mean_and_factor


def class_frechet_distances(
    real: Tensor, real_labels: Tensor, generated: Tensor, generated_labels: Tensor
) -> dict[int, float]:
    """Fréchet distance of each class by itself; their mean is the intra-class FID (arXiv 1802.05637).

    Args:
        real, generated: features (N, d) and (M, d).
        real_labels, generated_labels: (N,) and (M,) integers.

    Raises:
        InputError: for a class with fewer than 2 images on a side.
    """
    distances = {}
    for label in torch.cat([real_labels, generated_labels]).unique().tolist():
        sides = real[real_labels == label], generated[generated_labels == label]
        if min(map(len, sides)) < 2:
            raise InputError(
                f"class {label} has {len(sides[0])} real and {len(sides[1])} generated images; "
                "at least 2 of each are needed"
            )
        distances[label] = float(frechet_distance(*mean_and_factor(sides[0]), *mean_and_factor(sides[1])))
    return distances


def class_accuracy(real: Tensor, real_labels: Tensor, generated: Tensor, generated_labels: Tensor) -> float:
    """Share of generated images that a linear classifier, trained on the real features, gives the class they have.

    The classifier is linear discriminant analysis, closed form in float64: the pooled within-class covariance, shrunk
    towards a multiple of the identity by a hundredth. For a network of your own, compare its predictions yourself.

    Args:
        real, generated: features (N, d) and (M, d).
        real_labels, generated_labels: (N,) and (M,) integers.

    Raises:
        InputError: for a generated class without real images.
    """
    classes = real_labels.unique()
    missing = sorted(set(generated_labels.tolist()) - set(classes.tolist()))
    if missing:
        raise InputError(f"generated class {missing[0]} has no real images; real classes are {classes.tolist()}")
    real, generated = real.double(), generated.double()
    means = torch.stack([real[real_labels == label].mean(dim=0) for label in classes])
    centred = real - means[torch.searchsorted(classes, real_labels.contiguous())]
    covariance = centred.mT @ centred / len(real)
    size = covariance.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    shrunk = 0.99 * covariance + 0.01 * size * torch.eye(len(covariance), dtype=torch.float64, device=real.device)
    weights = torch.linalg.solve(shrunk, means.mT)
    scores = generated @ weights - (means.mT * weights).sum(dim=0) / 2
    return float((classes[scores.argmax(dim=1)] == generated_labels).double().mean())
