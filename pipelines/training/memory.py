"""What to change when the memory does not suffice, with the figures."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from wvq.tokenizer.errors import InputError

from .schedule import Schedule


@contextmanager
def memory_advice(config: Schedule, accelerator: Accelerator) -> Iterator[None]:
    """Turn running out of memory into a message that names the batch, the memory, and what would need less.

    Raises:
        InputError: if the block ran out of memory, of a GPU or of the system.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise  # the allocator of CPUs has no exception of its own
        reason = str(error).strip().splitlines()[0] if str(error) else "the system gave no more"
        raise InputError(f"out of memory: {reason}\n{_figures(config, accelerator)}") from error


def _figures(config: Schedule, accelerator: Accelerator) -> str:
    parts, processes = config.gradient_accumulation_steps, accelerator.num_processes
    at_once = config.batch_size // parts // processes
    text = f"batch_size {config.batch_size} in {parts} part(s) on {processes} process(es) is {at_once} images at once"
    if accelerator.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(accelerator.device)
        peak = torch.cuda.max_memory_allocated(accelerator.device)
        text += f"; this run took {peak / 2**30:.1f} GiB, {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
    if fewer := _more_parts(config, processes):
        return f"{text}; try gradient_accumulation_steps {fewer} (the same steps, a part of the memory)"
    return f"{text}; try a smaller model"


def _more_parts(config: Schedule, processes: int) -> int | None:
    """The next number of parts into which the batch can be cut, at least twice as many."""
    whole = config.batch_size // processes
    parts = config.gradient_accumulation_steps
    return next((n for n in range(2 * parts, whole + 1) if config.batch_size % (n * processes) == 0), None)
