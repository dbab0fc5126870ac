"""What to change when the memory does not suffice, with the figures."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from wvq.tokenizer.errors import InputError

from .config import TrainingConfig


@contextmanager
def memory_advice(config: TrainingConfig, accelerator: Accelerator) -> Iterator[None]:
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


def _figures(config: TrainingConfig, accelerator: Accelerator) -> str:
    micro_batches, processes = accelerator.gradient_accumulation_steps, accelerator.num_processes
    at_once = config.batch_size // micro_batches // processes
    text = (
        f"batch_size {config.batch_size} in {micro_batches} micro-batch(es) on {processes} process(es) is "
        f"{at_once} images at once"
    )
    if accelerator.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(accelerator.device)
        peak = torch.cuda.max_memory_allocated(accelerator.device)
        text += f"; this run took {peak / 2**30:.1f} GiB, {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
    if fewer := _more_micro_batches(config.batch_size, micro_batches, processes):
        return f"{text}; try gradient_accumulation_steps {fewer} (as large a batch, in less memory)"
    return f"{text}; try a smaller model"


def _more_micro_batches(batch_size: int, now: int, processes: int) -> int | None:
    """The next number of micro-batches into which a batch can be cut, at least twice as many as now."""
    return next((n for n in range(2 * now, batch_size // processes + 1) if batch_size % (n * processes) == 0), None)
