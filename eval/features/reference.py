"""Reference statistics: computed once, saved as safetensors and JSON, and refused where the protocol is another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import write_json, written_whole
from wvq.tokenizer.storage.untrusted import file_inside, read_json

from ..metrics.frechet import covariance_factor
from .archives import ArrayHeader, read_array, read_headers

MAX_DIMENSION = 2**14  # a covariance of 2 GiB
_WEIGHTS, _PROTOCOL = "statistics.safetensors", "protocol.json"
_TENSORS = ("mean", "covariance", "spatial_mean", "spatial_covariance")


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Feature statistics of a reference set: computed once, used for any number of distances to it.

    Attributes:
        count: images, N; None where a published file does not say.
        mean: (d,) float64.
        covariance: (d, d) float64, unbiased.
        extractor: the extractor's protocol; {} where a published file does not say.
        dataset: the reference set's description, with its fingerprint.
        spatial_mean, spatial_covariance: (s,) and (s, s) float64, of the features of sFID; None where they were not
            taken.
    """

    count: int | None
    mean: Tensor
    covariance: Tensor
    extractor: dict[str, Any]
    dataset: dict[str, Any]
    spatial_mean: Tensor | None = None
    spatial_covariance: Tensor | None = None

    def save(self, folder: str | Path) -> None:
        """Write statistics.safetensors and protocol.json into folder, whole or not at all.

        Raises:
            InputError: if the folder holds anything else.
        """
        with written_whole(Path(folder)) as partial:
            tensors = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial / _WEIGHTS)
            protocol = {"count": self.count, "extractor": self.extractor, "dataset": self.dataset}
            write_json(partial / _PROTOCOL, protocol)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A folder written by `save`, or a published .npz with arrays `mu` (d,) and `sigma` (d, d).

        Raises:
            InputError: for a path that is neither, and files that do not hold what they should.
        """
        path = Path(path)
        if path.suffix == ".npz":
            return cls._load_published(path)
        protocol = read_json(path / _PROTOCOL)
        try:
            tensors = load_file(file_inside(path, _WEIGHTS))
            about = [protocol[name] for name in ("count", "extractor", "dataset")]
            mean, covariance = tensors["mean"], tensors["covariance"]
            return cls(about[0], mean, covariance, about[1], about[2], *(tensors.get(name) for name in _TENSORS[2:]))
        except (SafetensorError, KeyError, TypeError) as error:
            raise InputError(f"{path} does not hold reference statistics: {error}") from error

    @classmethod
    def _load_published(cls, path: Path) -> Self:
        headers = read_headers(path)
        if not {"mu", "sigma"} <= headers.keys():
            raise InputError(f"{path} holds the arrays {', '.join(headers)}; published statistics are mu and sigma")
        arrays = [*_published_arrays(path, headers, "mu", "sigma")]
        if {"mu_s", "sigma_s"} <= headers.keys():
            arrays += _published_arrays(path, headers, "mu_s", "sigma_s")
        dataset = {
            "source": path.name,
            "origin": "published statistics, of images and a count that the file does not name",
        }
        return cls(None, arrays[0], arrays[1], {}, dataset, *arrays[2:])

    def mean_and_factor(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and L (d, r) with L L' the covariance: a side of a Fréchet distance."""
        return self.mean, covariance_factor(self.covariance)

    def spatial_mean_and_factor(self) -> tuple[Tensor, Tensor]:
        """The same of the spatial features, (s,) and (s, r).

        Raises:
            InputError: if there are none.
        """
        if self.spatial_mean is None or self.spatial_covariance is None:
            raise InputError(
                f"score sfid needs spatial statistics, which the reference, {self.dataset.get('source')}, does not "
                "have; give its images, statistics that were saved with sfid among the scores, or an .npz with mu_s "
                "and sigma_s"
            )
        return self.spatial_mean, covariance_factor(self.spatial_covariance)

    def check_extractor(self, protocol: dict[str, Any]) -> None:
        """Refuse features of another extractor; published statistics name none, so only their dimension is compared.

        Raises:
            InputError: that shows each difference.
        """
        if not self.extractor:
            if protocol.get("dimension", len(self.mean)) != len(self.mean):
                raise InputError(
                    f"the reference statistics have {len(self.mean)} dimensions, the extractor {protocol['dimension']}"
                )
            return
        different = differences(self.extractor, protocol)
        if different:
            raise InputError(f"the reference statistics are of another extractor: {different}")


def _published_arrays(path: Path, headers: Mapping[str, ArrayHeader], mean: str, covariance: str) -> list[Tensor]:
    """The arrays of these names as (d,) and (d, d), float64."""
    mu, sigma = headers[mean], headers[covariance]
    d = math.prod(mu.shape)
    if max(mu.shape, default=1) != d or sigma.shape != (d, d) or {mu.dtype.kind, sigma.dtype.kind} != {"f"}:
        raise InputError(
            f"{path} has {mean} {mu.shape} and {covariance} {sigma.shape}; they must be floating-point, (d,) and (d, d)"
        )
    if not 1 <= d <= MAX_DIMENSION:
        raise InputError(f"{path} has statistics of {d:,} dimensions; valid are 1 to {MAX_DIMENSION:,}")
    arrays = [read_array(path, name).astype("f8") for name in (mean, covariance)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(f"{path} has values in {mean} or {covariance} that are not finite")
    return [torch.from_numpy(arrays[0].reshape(d)), torch.from_numpy(arrays[1])]


def check_same_images(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse images made by another protocol than the reference's: crop, resize, size or channels, where both say.

    Args:
        there: description of the reference.
        here: description of the images to be scored.

    Raises:
        InputError: that shows each difference.
    """
    keys = [key for key in ("crop", "resize", "image_size", "channels") if key in there and key in here]
    different = differences({key: there[key] for key in keys}, {key: here[key] for key in keys})
    if different:
        raise InputError(f"the reference is of another protocol than the images: {different}")


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between a protocol there and one here, in words; "" for nothing."""
    different = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return "; ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in different)
