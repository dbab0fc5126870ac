"""The exceptions that say: what was given cannot be used."""


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
