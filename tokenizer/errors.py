"""The exceptions that say: what was given cannot be used; and the commonest reason, a number out of its range."""

import math
from typing import Any

LARGEST_SEED = 2**32 - 1
"""What numpy, and with it Accelerate's set_seed, takes."""


class InputError(ValueError):
    """An argument, a file or a configuration that cannot be used.

    The message names the argument or file, the value received and what would be valid, in one or two lines. The
    command line prints it as it is and exits with code 2; every other exception is a defect and keeps its traceback.
    """


class NonFiniteError(InputError):
    """NaN or infinity where a model needs numbers; in training raised on all processes alike, to skip the step."""


def plain_message(error: InputError) -> str:
    """The message alone, where a worker process of a data loader has put a traceback before it."""
    return str(error).rpartition(f"{InputError.__name__}: ")[2].strip()


def check_range(config: Any, *names: str, least: float = -math.inf, most: float = math.inf) -> None:
    """Check fields that hold a number, or several, in [least, most]; NaN and infinity are in no range.

    Raises:
        InputError: naming the first field that does not, with its value.
    """
    valid = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:.10g}"
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if not (least <= number <= most and abs(number) < math.inf):
                raise InputError(
                    f"{name} is {value}; it must be {'finite' if math.inf in (-least, abs(number)) else valid}"
                )
