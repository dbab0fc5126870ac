"""OptVQ (arXiv 2412.15195): in training vectors are shared out over the codes by optimal transport."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributed import minimum_over_processes, sum_over_processes
from ...errors import InputError
from ...precision import to_float64
from ..vanilla import VanillaQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class SinkhornQuantizer(VanillaQuantizer):
    """The vanilla loss, with codes that are assigned so that all are used alike; in evaluation the nearest code.

    In training the assignment is the largest entry of each row of the plan that Sinkhorn's iterations find between the
    vectors and the codes, both of uniform weight. Its cost are the distances, less their mean and over their standard
    deviation, as in the paper. They are held at once: 4 N K bytes, and as much again for a moment.

    From the authors' program and its settings for ImageNet are the normalised cost, 5 iterations, exp(-10 cost), the
    largest entry, and the weights of the loss. Other than there, evaluation takes the nearest code, which does not
    depend on the other vectors of the batch; the codes are parameters themselves, without the linear map that the
    program has before them (which is `LinearQuantizer`); and they start where `initialization` says, in the program by
    k-means, to which "kmeans++" comes nearest. With accumulated gradients a plan is that of a micro-batch.

    Source: OptVQ, arXiv 2412.15195.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes; 0.25 is the paper's.
        epsilon: weight of the plan's entropy, above 0, in standard deviations of the distances.
        iterations: of Sinkhorn, at least 1.

    Raises:
        InputError: for an epsilon that is not above 0, iterations below 1, and as `CodebookQuantizer`.
    """

    codebook_weight: float = 0.25
    epsilon: float = 0.1
    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0:
            raise InputError(f"epsilon is {self.epsilon}; it must be above 0")
        if self.iterations < 1:
            raise InputError(f"iterations is {self.iterations}; it must be at least 1")

    @property
    def repeatable(self) -> bool:
        return False  # one way of checkpointing runs the first forward without gradients, as no part of a step

    def assign(self, vectors: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()) or self.waiting:
            return super().assign(vectors)
        return balanced_codes(vectors, self.codebook.detach(), self.epsilon, self.iterations)


@torch.no_grad()
def balanced_codes(vectors: Tensor, codes: Tensor, epsilon: float, iterations: int) -> Tensor:
    """For vectors (N, D) the codes (K, D) that get most of each in a plan of optimal transport, (N,) int64 in [0, K).

    The plan (Cuturi, 2013) is u_n exp(-c_nk / epsilon) v_k with sums 1/N over codes and 1/K over vectors, those of all
    processes, after so many iterations that each fit the codes' sums, then the vectors'. A collective call.
    """
    plan = _normalised(torch.cdist(vectors, codes)).div_(-epsilon)
    largest = plan.amax(dim=1, keepdim=True)  # the nearest code's; without it all of a row could underflow
    plan.sub_(largest).exp_()
    tiny = torch.finfo(plan.dtype).tiny
    number = sum_over_processes(largest.new_full((), len(vectors)))
    of_vectors = largest[:, 0].exp()
    of_codes = torch.ones_like(plan[0])
    for _ in range(iterations):
        of_codes = 1 / (len(codes) * sum_over_processes(of_vectors @ plan)).clamp(min=tiny)
        of_vectors = 1 / (number * (plan @ of_codes)).clamp(min=tiny)
    return plan.mul_(of_codes).argmax(dim=1)


def _normalised(distances: Tensor) -> Tensor:
    """Distances (N, K), in place, to a standard deviation of 1 and a minimum of 0, over all processes."""
    sums = to_float64(distances.sum(dim=1))
    count = sum_over_processes(sums.new_full((), distances.numel()))
    mean = sum_over_processes(sums.sum()) / count
    squares = torch.linalg.vector_norm(distances - mean.to(distances), dim=1)
    deviation = (sum_over_processes(to_float64(squares).square().sum()) / count).sqrt()
    least = minimum_over_processes(distances.min())
    return distances.sub_(least).div_(deviation.to(distances).clamp(min=torch.finfo(distances.dtype).tiny))
