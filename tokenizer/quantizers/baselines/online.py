"""Online clustered codebook, after CVQ-VAE (arXiv 2307.15139)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ...decided_there import count_each, may_ask
from ...distributed import minimum_over_processes, process_index, rows_of_all_processes, sum_over_processes
from ...errors import InputError
from ..nearest import nearest_codes
from ..running_means import check_decay
from ..vanilla import VanillaQuantizer

Anchor = Literal["nearest", "probrandom"]


@dataclass(kw_only=True, eq=False, repr=False)
class OnlineQuantizer(VanillaQuantizer):
    """The vanilla quantizer, whose rarely used codes are moved to vectors of the step, their anchors.

    With p_k the moving average of a code's share of the vectors, it moves by a_k = exp(-10 p_k K / (1 - decay) - 1e-3)
    of the way to its anchor, a vector of the step on any process: a dead code jumps, a code of average use does not
    move. Codes are chosen by Euclidean distance, where CVQ-VAE's default is the cosine; its contrastive loss is left
    out.

    Source: after CVQ-VAE, arXiv 2307.15139.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.
        decay: of the average use, in [0, 1).
        anchor: "nearest", the vector nearest to the code, CVQ-VAE's "closest"; or "probrandom", CVQ-VAE's default, one
            drawn with a probability in proportion to exp(cosine of vector and code).

    Raises:
        InputError: for a decay outside [0, 1), another anchor, and as `CodebookQuantizer`.
    """

    decay: float = 0.99
    anchor: Anchor = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self.decay)
        if self.anchor not in get_args(Anchor):
            raise InputError(f"anchor is '{self.anchor}'; valid are {', '.join(get_args(Anchor))}")
        self.usage: Tensor
        self.register_buffer("usage", torch.zeros(self.codebook_size))

    @torch.no_grad()
    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        counts = sum_over_processes(count_each(indices, self.codebook_size, self.usage.dtype))
        self.usage.lerp_(counts / counts.sum(), 1 - self.decay)
        step = torch.exp(-10 * self.codebook_size / (1 - self.decay) * self.usage - 1e-3)
        moves = step > torch.finfo(step.dtype).eps  # the others would move by less than rounding
        anchors = nearest_vectors if self.anchor == "nearest" else drawn_vectors
        if may_ask(moves.device) or self.anchor == "probrandom":
            moved = moves.nonzero().squeeze(1)
            if len(moved):
                codes = self.weight.data[moved]
                self.weight.data[moved] = codes.lerp(anchors(codes, vectors), step[moved, None])
        else:  # which ones is not asked: all of them have an anchor
            codes = self.weight.data
            codes.copy_(torch.where(moves[:, None], codes.lerp(anchors(codes, vectors), step[:, None]), codes))
        return None, {}


def nearest_vectors(codes: Tensor, vectors: Tensor) -> Tensor:
    """For each code (M, D) the nearest of the vectors (N, D) of all processes, (M, D); a collective call."""
    nearest = vectors[nearest_codes(codes, vectors)]
    distances = (nearest - codes).square().sum(dim=1)
    best = (distances == minimum_over_processes(distances)).to(codes.dtype)[:, None]
    found = sum_over_processes(torch.cat([best * nearest, best], dim=1))
    return found[:, :-1] / found[:, -1:]  # processes that tie share out


def drawn_vectors(codes: Tensor, vectors: Tensor) -> Tensor:
    """For each code (M, D) one of the vectors (N, D) of all processes, (M, D), drawn by exp(cosine of both).

    The first process draws, with torch's own random numbers. A collective call.
    """
    vectors = rows_of_all_processes(vectors)
    anchors = torch.zeros_like(codes)
    if process_index() == 0:
        # Drawn evenly and kept with probability exp(cosine - 1), 0.14 at least: no (M, N) matrix is needed.
        waiting = torch.arange(len(codes), device=codes.device)
        while len(waiting):
            drawn = vectors[torch.randint(len(vectors), (len(waiting),), device=codes.device)]
            cosine = F.cosine_similarity(drawn, codes[waiting], dim=1)
            kept = torch.rand(len(waiting), device=codes.device) < (cosine - 1).exp()
            anchors[waiting[kept]] = drawn[kept]
            waiting = waiting[~kept]
    return sum_over_processes(anchors)
