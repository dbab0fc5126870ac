"""What the steps since the last line of metrics gave; a step whose loss or gradient is not finite is not made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wvq.tokenizer.distributed import minimum_over_processes, rows_of_all_processes, whole_tensor
from wvq.tokenizer.errors import InputError, NonFiniteError
from wvq.tokenizer.precision import to_float64
from wvq.tokenizer.quantizers.base import Quantizer


class StepRecord:
    """Means of the loss terms over the steps made, and the number of steps skipped.

    A step is skipped, on all processes alike, if any term or gradient norm of any of its micro-batches on any process
    is NaN or infinite, or a quantizer was given such features: its gradients are dropped, so that the optimizer changes
    nothing. Codes that move without gradients follow the features that they have seen, which were finite.

    Args:
        accelerator: whose processes these are.
        model: whose gradients are dropped.
        limit: of steps skipped one after the other; at that many the run stops.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, limit: int):
        self.accelerator, self.model, self.limit = accelerator, model, limit
        self.sums: dict[str, Tensor] = {}
        self.micro_batches = 0
        self.skipped = self.skipped_in_a_row = 0
        self._pending: list[dict[str, Tensor]] = []
        self._problem = ""

    @contextmanager
    def guard(self, step: int, batch: int) -> Iterator[None]:
        """Around a micro-batch of step number `step`, from the forward pass to the optimizer.

        Raises:
            InputError: at the limit; the message says which values were not finite.
        """
        self._pending.append({})
        try:
            yield
            if self.accelerator.sync_gradients:
                self._count()
        except NonFiniteError as error:
            self._problem = self._problem or f"batch {batch}: {error}"
            self.model.zero_grad()
            if self.accelerator.sync_gradients:
                for module in self.model.modules():
                    if isinstance(module, Quantizer):
                        module.abandon_step()
                self._skip(step)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Take note of loss terms, scalars, of the micro-batch."""
        self._pending[-1] |= {name: to_float64(term.detach()) for name, term in terms.items()}

    def check(self, **norms: Tensor | None) -> None:
        """Before the optimizer's step: whether all terms and these gradient norms are finite.

        A norm is None where an engine clips by itself.

        Raises:
            NonFiniteError: if not, on all processes alike; `guard` turns it into a skipped step.
        """
        device = self.accelerator.device  # the norm of parameters without gradients is made on the CPU
        known = {
            f"gradient norm of {name}": to_float64(whole_tensor(norm).to(device))
            for name, norm in norms.items()
            if norm is not None
        }
        seen = [*self._pending, known]
        values = torch.stack([value for terms in seen for value in terms.values()])
        if self._problem or not minimum_over_processes(values.isfinite().all().int()):
            raise NonFiniteError(self._diagnosis([name for terms in seen for name in terms], values))

    def _count(self) -> None:
        for terms in self._pending:
            self.sums = self.sums | {name: self.sums.get(name, 0) + value for name, value in terms.items()}
        self.micro_batches += len(self._pending)
        self._pending, self.skipped_in_a_row = [], 0

    def means(self) -> dict[str, float]:
        """Means of the terms over all processes since the last call, and all steps skipped; a collective call."""
        means = {name: total / self.micro_batches for name, total in self.sums.items()}
        self.sums, self.micro_batches = {}, 0
        reduced: Any = self.accelerator.reduce(means, "mean")
        return {**{name: float(value) for name, value in reduced.items()}, "skipped_steps": self.skipped}

    def counts(self) -> dict[str, int]:
        """The state, the same on all processes; `sums`, which differ, are the rest of it."""
        return {"parts": self.micro_batches, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load(self, sums: dict[str, Tensor], counts: dict[str, int]) -> None:
        """Resume from a state."""
        self.sums, self.micro_batches = sums, counts["parts"]
        self.skipped, self.skipped_in_a_row = counts["skipped"], counts["skipped_in_a_row"]

    def _skip(self, step: int) -> None:
        problem, self._pending, self._problem = self._problem, [], ""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.limit:
            raise InputError(
                f"step {step} was the last of {self.limit} in a row that were skipped since not all numbers were "
                f"finite; {problem}\ntry a lower learning rate, more warm-up steps or a smaller max_grad_norm"
            )

    def _diagnosis(self, names: list[str], own: Tensor) -> str:
        """Name and value of each number, by process."""
        rows = enumerate(rows_of_all_processes(own[None]).tolist())
        lists = {p: ", ".join(f"{n} {value:.4g}" for n, value in zip(names, row, strict=True)) for p, row in rows}
        return "; ".join(f"process {p}: {text}" for p, text in lists.items()) if len(lists) > 1 else lists[0]
