"""Whose turn it is: with M codes at each position of a tokenizer's grid, token t is one of the t mod M-th K codes."""

from collections.abc import Iterator

from torch import Tensor

from wvq.tokenizer.errors import InputError


def check_codes_per_position(codes_per_position: int, num_codes: int, num_tokens: int) -> None:
    """Raises: InputError: unless M >= 1 divides both the ids of codes, M * K, and the tokens of an image, h * w * M."""
    if codes_per_position < 1 or num_codes % codes_per_position or num_tokens % codes_per_position:
        raise InputError(
            f"codes_per_position is {codes_per_position}; it must be at least 1 and divide num_codes, {num_codes}, "
            f"and num_tokens, {num_tokens}"
        )


def turns(num_codes: int, codes_per_position: int) -> Iterator[tuple[slice, slice]]:
    """For each of the M codes of a position, in order: where in a sequence it stands, and which ids it can have."""
    size = num_codes // codes_per_position
    for m in range(codes_per_position):
        yield slice(m, None, codes_per_position), slice(m * size, (m + 1) * size)


def check_turns(name: str, tokens: Tensor, num_codes: int, codes_per_position: int) -> None:
    """Raises: InputError: if a token of (B, n) called `name` is a code whose turn it is not; -1 is any of them."""
    for places, ids in turns(num_codes, codes_per_position):
        given = tokens[:, places]
        given = given[given >= 0]
        if given.numel() and not ids.start <= int(given.min()) <= int(given.max()) < ids.stop:
            raise InputError(
                f"{name} reach from {int(given.min())} to {int(given.max())} at tokens {places.start}, "
                f"{places.start + codes_per_position}, ...; valid there are {ids.start} to {ids.stop - 1}"
            )
