"""Whether all scores were finite that codes are drawn from, without waiting for a GPU in every step."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from wvq.tokenizer.decided_there import may_ask
from wvq.tokenizer.errors import NonFiniteError


class FiniteScores:
    """What was seen of the scores of all images so far; a device that the host would have to wait for is asked at the
    end.

    Args:
        batch: images.
        guided: whether there is guidance, which may be too strong.
        device: of the scores.
        name: of the step of a number, as "at position 3".
    """

    def __init__(self, batch: int, guided: bool, device: torch.device, name: Callable[[int], str]):
        self.guided, self.name, self.at_once = guided, name, may_ask(device)
        self.broken = torch.full((batch,), sys.maxsize, device=device)  # the first step of each that was not

    def checked(self, scores: Tensor, images: Tensor, step: int) -> Tensor:
        """The scores (B, ..., K) of some images (B,), zeros for those without finite ones, whose draw would be no code.

        Raises:
            NonFiniteError: as `check`, where the host need not wait.
        """
        flat = scores.flatten(1)
        broken = ~(flat.amax(dim=1).isfinite() & flat.amin(dim=1).isfinite())  # NaN is both
        before = self.broken[images]
        self.broken[images] = torch.where(broken, before.clamp(max=step), before)
        if self.at_once:
            self.check()
            return scores
        return scores.masked_fill(broken.view(-1, *[1] * (scores.ndim - 1)), 0.0)

    def check(self) -> None:
        """Raises: NonFiniteError: naming the first step and image."""
        if (step := int(self.broken.min())) == sys.maxsize:
            return
        raise NonFiniteError(
            f"the scores of image {self.broken.tolist().index(step)} {self.name(step)} are not finite; "
            f"try {'a lower guidance_scale, and ' * self.guided}whether all weights of the prior are finite"
        )
