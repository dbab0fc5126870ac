"""Values as a browser sends them: of any type, until they are checked here; and the time that they may take."""

import math
import time
from collections.abc import Callable
from typing import Any

from wvq.tokenizer import InputError
from wvq.tokenizer.errors import LARGEST_SEED

from ..generation import SamplingOptions

OnStep = Callable[[int, int], None]
"""Called after each token with the number of tokens that are there, and of those that there will be."""


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """Raises: InputError: for what is no whole number in [least, most]."""
    number = finite_number(name, value)
    if number != int(number) or not least <= number <= most:
        raise InputError(f"{name} is {value!r:.40}; it must be a whole number from {least} to {most}")
    return int(number)


def finite_number(name: str, value: Any) -> float:
    """Raises: InputError: for what is no number, not finite, or left empty."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 2**63 or not math.isfinite(value):
        given = "empty" if value in (None, "") else f"{value!r:.40}"
        raise InputError(f"{name} is {given}; give a number")
    return value


def a_text(name: str, value: Any, most: int) -> str:
    """Raises: InputError: for what is no text, or one of more than `most` characters."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r:.40}; it must be text")
    if len(value) > most:
        raise InputError(f"{name} has {len(value):,} characters; at most {most:,} are read")
    return value


def sampling_options(
    guidance_scale: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, seed: Any
) -> SamplingOptions:
    """Raises: InputError: for what is no number, or out of its range."""
    return SamplingOptions(
        guidance_scale=finite_number("guidance_scale", guidance_scale),
        temperature=finite_number("temperature", temperature),
        top_k=whole_number("top_k", top_k, 0, 2**31),
        top_p=finite_number("top_p", top_p),
        min_p=finite_number("min_p", min_p),
        seed=whole_number("seed", seed, 0, LARGEST_SEED),
    )


def within(seconds: float, report: OnStep) -> OnStep:
    """`report`, which ends the drawing by an InputError once it has taken longer than `seconds` from now."""
    end = time.monotonic() + seconds

    def on_step(done: int, total: int) -> None:
        if time.monotonic() > end:
            raise InputError(
                f"{done} of {total} tokens took the {seconds:g} seconds that are allowed; draw fewer images"
            )
        report(done, total)

    return on_step
