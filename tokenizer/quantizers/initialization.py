"""Where codes start: drawn from a distribution, or from the first vectors that are seen."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..precision import to_float64

Initialization = Literal["normal", "uniform", "data", "kmeans++"]
FROM_DATA = ("data", "kmeans++")

CANDIDATES = {"data": 1, "kmeans++": 4}  # vectors for each code
_ONE_BY_ONE = 256  # codes that k-means++ draws one after the other
_BLOCK_ENTRIES = 2**22  # distances held at once, 32 MiB


def check_initialization(name: str, steps: int) -> None:
    """Check the name of an initialisation and the number of steps before it.

    Raises:
        InputError: if the name is unknown, or steps below 0, or above 0 where nothing waits for data.
    """
    if name not in get_args(Initialization):
        raise InputError(f"initialization is '{name}'; valid are {', '.join(get_args(Initialization))}")
    if steps < 0:
        raise InputError(f"initialization_steps is {steps}; it must be at least 0")
    if steps and name not in FROM_DATA:
        raise InputError(f"initialization_steps is {steps}, but initialization '{name}' needs no data; it must be 0")


def draw_codebook(name: Initialization, codebook_size: int, codebook_dim: int, init_std: float) -> Tensor:
    """A codebook (K, D) before anything is seen: N(0, init_std^2), or U(-1/K, 1/K) for "uniform".

    Both are the paper's (arXiv 2506.15078), the first for Wasserstein VQ, the second for its baselines.
    """
    if name == "uniform":
        return (torch.rand(codebook_size, codebook_dim) * 2 - 1) / codebook_size
    return torch.randn(codebook_size, codebook_dim) * init_std


class FirstVectors(nn.Module):
    """The latest vectors of a training whose codes are still to be drawn, until there are enough to draw them from.

    Enough are K for "data" and 4 K for "kmeans++", which has to have a choice; so many are kept.

    They are part of the state, so that a run that stops meanwhile goes on exactly, but no buffers: there are none once
    the codes are drawn, and a state of before this class has none; and who pairs the buffers of two models by their
    place, as `torch.optim.swa_utils.AveragedModel` does, needs their number to stay.

    Args:
        name: how the codes are drawn.
        codebook_size: K.
        least_steps: steps before which they are not drawn.
    """

    def __init__(self, name: Literal["data", "kmeans++"], codebook_size: int, least_steps: int):
        super().__init__()
        self.name: Literal["data", "kmeans++"] = name
        self.codebook_size, self.least_steps = codebook_size, least_steps
        self.needed = CANDIDATES[name] * codebook_size
        self.latest: Tensor | None = None
        self.steps = 0

    def push(self, vectors: Tensor) -> tuple[Tensor, bool]:
        """After a step with vectors (N, D), of all processes: codes (K, D), and whether these are drawn for good.

        Until then the codes are the latest vectors, again and again where there are fewer than K.
        """
        if self.latest is not None:
            vectors = torch.cat([self.latest.to(vectors.device), vectors])
        self.steps += 1
        if len(vectors) >= self.needed and self.steps >= self.least_steps:
            self.latest, self.steps = None, 0
            return codes_from_data(self.name, vectors, self.codebook_size), True
        self.latest = vectors[-self.needed :].clone()
        rows = self.latest[-self.codebook_size :]
        return rows[torch.arange(self.codebook_size, device=rows.device) % len(rows)], False

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.latest is not None:
            destination[f"{prefix}latest"] = self.latest
            destination[f"{prefix}steps"] = torch.tensor(self.steps, device=self.latest.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **keywords: Any) -> None:
        self.latest = state_dict.get(f"{prefix}latest")
        self.steps = int(state_dict.get(f"{prefix}steps", 0))


def codes_from_data(name: Literal["data", "kmeans++"], vectors: Tensor, codebook_size: int) -> Tensor:
    """K of the vectors (N, D), N >= K, as codes: drawn without replacement, or spread out by k-means++.

    k-means++ (Arthur and Vassilvitskii, 2007) draws each next code with a probability in proportion to its squared
    distance from the codes so far. So it is up to 256 codes; from there on each round draws a sixteenth of the number
    of codes so far at once, without replacement, as k-means|| does (arXiv 1203.6402): 68 rounds for 16,384 codes, in
    place of as many passes over the vectors. The random numbers are the same in every run.
    """
    generator = torch.Generator().manual_seed(0)
    if name == "data":
        drawn = torch.randperm(len(vectors), generator=generator, device="cpu")[:codebook_size]
        return vectors[drawn.to(vectors.device)]
    points = to_float64(vectors)
    distances = torch.ones(len(points), dtype=torch.float64, device=points.device)
    chosen = torch.empty(0, dtype=torch.int64, device=points.device)
    while len(chosen) < codebook_size:
        number = 1 if len(chosen) < _ONE_BY_ONE else min(len(chosen) // 16, codebook_size - len(chosen))
        # The largest of u^(1/w), u uniform, are draws without replacement in proportion to w (Efraimidis and Spirakis,
        # 2006). Where fewer vectors differ than there are codes, all that is left has w = 0, and some are repeated.
        uniform = torch.rand(len(points), dtype=torch.float64, generator=generator, device="cpu")
        keys = uniform.log_().to(points.device) / distances
        new = keys.topk(number).indices
        nearest = _squared_distances(points, points[new])
        distances = torch.minimum(distances, nearest) if len(chosen) else nearest
        chosen = torch.cat([chosen, new])
    return vectors[chosen.to(vectors.device)]


def _squared_distances(points: Tensor, codes: Tensor) -> Tensor:
    """Squared distance of each point (N, D) to the nearest of codes (M, D), (N,); exactly 0 for equal ones."""
    exact = "donot_use_mm_for_euclid_dist"
    blocks = points.split(max(1, _BLOCK_ENTRIES // len(codes)))
    return torch.cat([torch.cdist(block, codes, compute_mode=exact).amin(dim=1).square() for block in blocks])
