"""Dead codes are moved to vectors of the step."""

import torch
from torch import Tensor, nn

from ..decided_there import count_each
from ..distributed import rows_of_all_processes, sum_over_processes
from ..errors import InputError

_DECAY = 0.99  # of the use, EnCodec's


class Revival(nn.Module):
    """Replaces codes that hardly any vector chooses by vectors of the step, drawn at random.

    As EnCodec (arXiv 2210.13438, section 3.2, after SoundStream, arXiv 2107.03312) and vector-quantize-pytorch have it,
    but for the threshold. EnCodec's is 2 vectors a batch, as the moving average of a code's count: where a batch has
    fewer vectors than there are codes, N < K, the mean count N / K is below it and all codes would be dead. Here it is
    a share of that mean, so that it says the same for every batch and codebook.

    A code starts, and starts anew, with the mean use, so that none is dead before it had a chance. No vector is given
    to two codes: with more dead codes than vectors in a step the others wait for the next one. The random numbers are
    those of the step's number, the same on all processes and in every run.

    Args:
        codebook_size: K.
        threshold: below which share of the mean use, N / K, a code is dead; in (0, 1).
    """

    usage: Tensor
    steps: Tensor

    def __init__(self, codebook_size: int, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.register_buffer("usage", torch.ones(codebook_size))  # over the mean use
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def replace(self, codes: Tensor, vectors: Tensor, indices: Tensor) -> None:
        """Replace the dead codes of (K, D) in place, after a step with vectors (N, D) that chose by indices (N,).

        A collective call.
        """
        counts = sum_over_processes(count_each(indices, len(codes), self.usage.dtype))
        self.usage.lerp_(counts * (len(codes) / counts.sum()), 1 - _DECAY)
        self.steps += 1
        dead = (self.usage < self.threshold).nonzero().squeeze(1)
        if not len(dead):
            return
        rows = rows_of_all_processes(vectors)
        number = min(len(dead), len(rows))
        generator = torch.Generator().manual_seed(int(self.steps))
        dead = dead[torch.randperm(len(dead), generator=generator, device="cpu")[:number].to(dead.device)]
        drawn = torch.randperm(len(rows), generator=generator, device="cpu")[:number]
        codes[dead] = rows[drawn.to(rows.device)]
        self.usage[dead] = 1.0


def check_revival(threshold: float) -> None:
    """Raises: InputError: unless 0 <= threshold < 1."""
    if not 0 <= threshold < 1:
        raise InputError(f"revival is {threshold}; it must be in [0, 1), 0 for none")
