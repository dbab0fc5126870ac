"""What every training run is configured with, and the learning rate as a function of the step."""

import math
from dataclasses import dataclass, field
from typing import Literal

from wvq.tokenizer import InputError
from wvq.tokenizer.data import DataConfig
from wvq.tokenizer.errors import LARGEST_SEED, check_range
from wvq.tokenizer.storage.untrusted import expand_home


def default_warmup(steps: int) -> int:
    """The warm-up of a training of so many steps where none is given, in steps."""
    return min(200, steps // 5)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run. The same command resumes from the run's newest checkpoint.

    Raises:
        InputError: for a value outside its bounds; the message says which are valid.
    """

    output_dir: str = "runs/training"
    """Folder of the run."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    steps: int = 100_000
    """Optimizer steps."""
    batch_size: int = 64
    """Images per optimizer step, over all processes and micro-batches."""
    gradient_accumulation_steps: int = 1
    """Micro-batches into which the batch of a step is cut to save memory."""
    learning_rate: float = 4e-4
    """Peak learning rate."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    warmup_steps: int | None = None
    """Steps in which the learning rate rises linearly from 0; a cosine follows. By default 200, or a fifth of fewer
    than 1,000 steps."""
    final_learning_rate: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0 for none."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the forward and backward pass."""
    log_every: int = 50
    """Steps between lines of training metrics."""
    evaluate_every: int = 2_000
    """Steps between evaluations."""
    checkpoint_every: int = 2_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept."""
    max_skipped_steps: int = 10
    """Steps in a row that may be skipped since a loss or gradient is not finite; then the run stops."""
    log_with: tuple[str, ...] = ()
    """Where metrics, pictures and code usage go as well: tensorboard, wandb, trackio, or another of Accelerate's
    trackers."""
    seed: int = 0
    """Of weights, the order of the images, and everything else that is drawn."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_with", tuple(self.log_with))
        expand_home(self, "output_dir")
        counts = ("steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints")
        check_range(self, *counts, "max_skipped_steps", least=1)
        check_range(self, "learning_rate", "weight_decay", least=0)
        check_range(self, "seed", least=0, most=LARGEST_SEED)
        if not self.max_grad_norm > 0:
            raise InputError(f"max_grad_norm is {self.max_grad_norm}; it must be above 0 (.inf never clips)")
        if self.gradient_accumulation_steps and self.batch_size % self.gradient_accumulation_steps:
            raise InputError(
                f"batch_size is {self.batch_size}; it must divide by gradient_accumulation_steps, "
                f"{self.gradient_accumulation_steps}"
            )
        if not 0 <= self.warmup < max(2, self.steps):
            raise InputError(
                f"warmup_steps is {self.warmup_steps}; it must be at least 0 and below steps, {self.steps}"
            )
        if not 0 <= self.final_learning_rate <= 1:
            raise InputError(f"final_learning_rate is {self.final_learning_rate}; it is a share of the peak, 0 to 1")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; it must be in [0, 1)")

    @property
    def warmup(self) -> int:
        """Steps of the warm-up: those given, or what suits the steps."""
        return default_warmup(self.steps) if self.warmup_steps is None else self.warmup_steps

    @property
    def turning_point(self) -> int:
        """Step whose evaluation and checkpoint are made and whose checkpoint is kept, since the run may come back to
        it; 0 for none."""
        return 0

    def lr_scale(self, step: int) -> float:
        """Share of the peak learning rate at a step: linear warm-up, then a cosine down to `final_learning_rate`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_learning_rate + (1 - self.final_learning_rate) * (1 + math.cos(math.pi * progress)) / 2

    def check_processes(self, num_processes: int) -> None:
        """Check that a micro-batch can be shared out evenly.

        Raises:
            InputError: if it cannot.
        """
        micro_batch = self.batch_size // (self.gradient_accumulation_steps or 1)
        if micro_batch % num_processes:
            raise InputError(
                f"batch_size / gradient_accumulation_steps is {micro_batch}; "
                f"it must divide by the {num_processes} processes"
            )
