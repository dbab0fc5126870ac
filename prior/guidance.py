"""Classifier-free guidance (arXiv 2207.12598): how strong it is at each position."""

import math
from typing import Literal

from wvq.tokenizer.errors import InputError

GuidanceSchedule = Literal["constant", "linear", "cosine"]


def guidance_scales(
    scale: float, num_tokens: int, schedule: GuidanceSchedule = "constant", interval: tuple[int, int] | None = None
) -> list[float]:
    """The guidance scale of each position; 1 is none.

    "linear" and "cosine" rise from about 1 at the first position to `scale` at the last, the second slowly at first (as
    MUSE, arXiv 2301.00704, and MDTv2, arXiv 2303.14389): early tokens stay diverse, late ones follow the class.

    Args:
        scale: at least 0.
        num_tokens: T.
        schedule: "constant", "linear" or "cosine".
        interval: first position with guidance and the one after the last (arXiv 2404.07724); None for all of them.

    Raises:
        InputError: for a negative scale, an unknown schedule or an interval outside 0 <= first < last <= T.
    """
    if not scale >= 0 or math.isinf(scale):
        raise InputError(f"guidance_scale is {scale}; it must be finite and at least 0 (1 is no guidance)")
    first, end = (0, num_tokens) if interval is None else interval
    if not 0 <= first < end <= num_tokens:
        raise InputError(f"guidance_interval is {interval}; valid are 0 <= first < end <= num_tokens = {num_tokens}")
    shares = [(position + 1) / num_tokens for position in range(num_tokens)]
    if schedule == "constant":
        shares = [1.0] * num_tokens
    elif schedule == "cosine":
        shares = [(1 - math.cos(math.pi * share)) / 2 for share in shares]
    elif schedule != "linear":
        raise InputError(f"guidance_schedule is '{schedule}'; valid are constant, linear, cosine")
    return [1 + (scale - 1) * share if first <= p < end else 1.0 for p, share in enumerate(shares)]


def check_guidance(guidance_scale: float, num_classes: int) -> None:
    """Raises: InputError: for guidance of a prior without classes."""
    if guidance_scale != 1 and not num_classes:
        raise InputError(f"guidance_scale is {guidance_scale}; a prior without classes takes only 1")
