"""The learning rate as a function of the step, the same for both stages."""

import math
from typing import Any, Protocol

from accelerate import Accelerator

from wvq.tokenizer.errors import InputError


class Schedule(Protocol):
    """The fields of a training configuration that fix its learning rates and batches."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def final_learning_rate(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def gradient_accumulation_steps(self) -> int: ...


def learning_rate_share(step: int, config: Schedule) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to `final_learning_rate`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_learning_rate + (1 - config.final_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rates(optimizer: Any, share: float) -> None:
    """Set every group of an optimizer to a share of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak"]


def check_schedule(config: Schedule, *positive: str) -> None:
    """Check what both training configurations have in common, and that the fields named in `positive` are at least 1.

    Raises:
        InputError: naming the field, its value and what would be valid.
    """
    for name in ("steps", "batch_size", *positive):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.gradient_accumulation_steps and config.batch_size % config.gradient_accumulation_steps:
        raise InputError(
            f"batch_size is {config.batch_size}; it must divide by gradient_accumulation_steps, "
            f"{config.gradient_accumulation_steps}"
        )
    if not 0 <= config.warmup_steps < max(2, config.steps):
        raise InputError(
            f"warmup_steps is {config.warmup_steps}; it must be at least 0 and below steps, {config.steps}"
        )
    if not 0 <= config.final_learning_rate <= 1:
        raise InputError(f"final_learning_rate is {config.final_learning_rate}; it is a share of the peak, 0 to 1")


def check_processes(config: Schedule, accelerator: Accelerator) -> None:
    """Check that a batch can be shared out evenly.

    Raises:
        InputError: if it cannot.
    """
    part = config.batch_size // (config.gradient_accumulation_steps or 1)
    if part % accelerator.num_processes:
        raise InputError(
            f"batch_size / gradient_accumulation_steps is {part}; "
            f"it must divide by the {accelerator.num_processes} processes"
        )
