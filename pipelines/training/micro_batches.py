"""How few micro-batches of a step fit into memory, found by trying."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size

from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError
from wvq.tokenizer.distributed import minimum_over_processes, on_first_process
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

_FILE = "accumulation.json"
_STATE_BYTES = 12  # of a parameter, which the trial does not have yet: two moments, and the sums of several processes


def accumulation_steps(
    folder: Path, model: TokenLoss, batch_size: int, num_tokens: int, accelerator: Accelerator
) -> int:
    """Micro-batches of a step of a run: those noted in its folder or, the first time, the fewest that fit.

    A run that is resumed elsewhere keeps their number, since its last bits depend on them. A collective call.

    Raises:
        InputError: if nothing fits, or for a prior that is sharded.
    """
    path = folder / _FILE
    if on_first_process(path.exists):
        return int(read_json(path)["gradient_accumulation_steps"])
    if accelerator.is_fsdp2:
        raise InputError(
            "gradient_accumulation_steps is 0, which tries what fits; a sharded prior cannot be tried, give a number"
        )
    found = fewest_micro_batches(model, batch_size, num_tokens, accelerator)
    on_first_process(lambda: write_json(path, {"gradient_accumulation_steps": found}))
    accelerator.print(f"gradient_accumulation_steps {found}: {batch_size // found} images at once")
    return found


def fewest_micro_batches(model: TokenLoss, batch_size: int, num_tokens: int, accelerator: Accelerator) -> int:
    """The fewest micro-batches of a step whose forward and backward passes fit into the memory of every process.

    Args:
        model: not prepared yet; moved to the accelerator's device. Its weights, its gradients and the random numbers
            are left as they were.
        batch_size: images of an optimizer step, over all processes.
        num_tokens: tokens of an image, T.

    Raises:
        InputError: if a single image on each process does not fit.
    """
    processes = accelerator.num_processes
    sizes = [batch_size // n for n in range(1, batch_size + 1) if batch_size % (n * processes) == 0]
    if not sizes:
        raise InputError(f"batch_size is {batch_size}; it must divide by the {processes} processes")
    smaller = iter(sizes[1:])

    @find_executable_batch_size(starting_batch_size=sizes[0], reduce_batch_size_fn=lambda: next(smaller, 0))
    def largest(images: int) -> int:
        here = images // processes
        reserve = torch.empty(
            _STATE_BYTES * sum(p.numel() for p in model.parameters()), dtype=torch.uint8, device=device
        )
        codes = torch.zeros(here, num_tokens, dtype=torch.int64, device=device)
        try:
            with accelerator.autocast():
                loss = model(codes, codes[:, 0])
            loss.backward()
        finally:
            model.zero_grad(set_to_none=True)
        del reserve
        return images

    device = accelerator.device
    model.to(device)
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        try:
            images = largest()  # pyright: ignore[reportCallIssue]  # the decorator gives the argument
        except RuntimeError as error:
            if "No executable batch size" not in str(error):
                raise
            images = 0
    least = int(minimum_over_processes(torch.tensor([images], device=device)))
    if least == 0:
        raise InputError(f"out of memory with a single image of {num_tokens} tokens at once; try a smaller model")
    return batch_size // least
