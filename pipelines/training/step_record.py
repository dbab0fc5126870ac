"""What the steps since the last line of metrics gave; a step whose loss or gradient is not finite is not made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wvq.tokenizer.decided_there import may_ask
from wvq.tokenizer.distributed import minimum_over_processes, rows_of_all_processes, whole_tensor
from wvq.tokenizer.errors import InputError, NonFiniteError
from wvq.tokenizer.precision import to_float64
from wvq.tokenizer.quantizers.base import Quantizer

ASKED_EVERY = 10  # steps after which a GPU, for which the host would wait, is asked how they went


def asks_after(step: int, device: torch.device) -> bool:
    """Whether the host asks a device after this step for what it has to know, the same answer on every process."""
    return may_ask(device) or step % ASKED_EVERY == 0


class StepRecord:
    """Means of the loss terms over the steps made, and the number of steps skipped.

    A step is skipped, on all processes alike, if any term or gradient norm of any of its micro-batches on any process
    is NaN or infinite, or a quantizer was given such features: its gradients are dropped, so that the optimizer changes
    nothing. Codes that move without gradients follow the features that they have seen, which were finite.

    On a CPU that is known at once. For a GPU the host would have to wait, so it is decided there: `check` returns a
    tensor that tells the optimizers, and the counts are tensors, read after every `ASKED_EVERY`th step, with the
    metrics and with a checkpoint. Once the limit is reached every step that follows is skipped until that is noticed.

    Args:
        accelerator: whose processes these are.
        model: whose gradients are dropped.
        limit: of steps skipped one after the other; at that many the run stops.

    Attributes:
        made: whether the last step was made; a bool scalar where only the device knows.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, limit: int):
        self.accelerator, self.model, self.limit = accelerator, model, limit
        self.sums: dict[str, Tensor] = {}
        self._counts = torch.zeros(3, dtype=torch.int64, device=accelerator.device)  # micro-batches, skipped, in a row
        self._pending: list[dict[str, Tensor]] = []
        self._problem = ""
        self._norms: dict[str, Tensor] = {}  # of this step
        self._bad: Tensor | None = None  # 1 if this step is, else 0, where only the device knows
        self._last_bad: tuple[list[str], Tensor] | None = None  # names and values of the step skipped last
        self._step = self._batch = 0
        self.made: Tensor | bool = False

    @property
    def micro_batches(self) -> int:
        """Those of the steps made since the last line of metrics."""
        return int(self._counts[0])

    @property
    def skipped(self) -> int:
        """Steps skipped since the start of the run."""
        return int(self._counts[1])

    @contextmanager
    def guard(self, step: int, batch: int) -> Iterator[None]:
        """Around a micro-batch of step number `step`, from the forward pass to the optimizer.

        Raises:
            InputError: at the limit; the message says which values were not finite.
        """
        self._pending.append({})
        self._step, self._batch = step, batch
        try:
            yield
            if self.accelerator.sync_gradients:
                self._end_step(self._bad)
                if self._last_bad is not None and step % ASKED_EVERY == 0:
                    self._stop_at_limit()
        except NonFiniteError as error:
            self._problem = self._problem or f"batch {batch}: {error}"
            self.model.zero_grad()
            if self.accelerator.sync_gradients:
                for module in self.model.modules():
                    if isinstance(module, Quantizer):
                        module.abandon_step()
                self._end_step(True)
                self._stop_at_limit()
                self._problem = ""

    def add(self, terms: dict[str, Tensor]) -> None:
        """Take note of loss terms, scalars, of the micro-batch."""
        self._pending[-1] |= {name: to_float64(term.detach()) for name, term in terms.items()}

    def check(self, asks: bool = True, **norms: Tensor | None) -> Tensor | None:
        """Before the optimizer's step: whether all terms and these gradient norms are finite.

        A norm is None where an engine clips by itself.

        Args:
            asks: whether the host waits for the answer.

        Returns:
            Where it does not: 1 if they are not, else 0, a float32 scalar on the device, which `torch.optim` calls
            found_inf.

        Raises:
            NonFiniteError: if not, on all processes alike; `guard` turns it into a skipped step.
        """
        device = self.accelerator.device  # the norm of parameters without gradients is made on the CPU
        known = {
            f"gradient norm of {name}": to_float64(whole_tensor(norm).to(device, non_blocking=True))
            for name, norm in norms.items()
            if norm is not None
        }
        self._norms |= known
        names, values = self._seen()
        if self._problem:
            raise NonFiniteError(self._diagnosis(names, values))
        finite = minimum_over_processes(values.isfinite().all().int())
        if asks:
            if not finite:
                raise NonFiniteError(self._diagnosis(names, values))
            return None
        bad = (1 - finite).to(device) | (self._counts[2] >= self.limit)
        self._bad = bad if self._bad is None else self._bad | bad
        return self._bad.float()

    def _seen(self) -> tuple[list[str], Tensor]:
        """Names and values of the step's terms and gradient norms so far."""
        parts = [*self._pending, self._norms]
        names = [name for terms in parts for name in terms]
        return names, torch.stack([value for terms in parts for value in terms.values()])

    def _end_step(self, bad: Tensor | bool | None) -> None:
        """Count the step, and add its terms to the sums unless it is bad; an integer scalar if the device decides."""
        if isinstance(bad, Tensor):
            names, values = self._seen()
            if self._last_bad is not None and self._last_bad[0] == names:
                is_last = (bad > 0) & (self._counts[2] < self.limit)
                values = torch.where(is_last.to(values.device), values, self._last_bad[1])
            self._last_bad = names, values
            self.made, where = bad == 0, bad.to(values.device) == 0
            self._pending = [
                {name: torch.where(where, value, 0.0) for name, value in terms.items()} for terms in self._pending
            ]
        else:
            self.made = not bad
        if self.made is not False:
            for terms in self._pending:
                self.sums = self.sums | {name: self.sums.get(name, 0) + value for name, value in terms.items()}
        skips = bad.long() if isinstance(bad, Tensor) else int(bool(bad))
        parts, skipped, in_a_row = self._counts.unbind()
        self._counts = torch.stack([parts + (1 - skips) * len(self._pending), skipped + skips, (in_a_row + 1) * skips])
        self._pending, self._norms, self._bad = [], {}, None

    def means(self) -> dict[str, float]:
        """Means of the terms over all processes since the last call, and all steps skipped; a collective call.

        Raises:
            InputError: at the limit of steps skipped.
        """
        self._stop_at_limit()
        parts, skipped, _ = self._counts.tolist()
        means = {name: total / parts for name, total in self.sums.items()} if parts else {}
        self.sums = {}
        self._counts[0] = 0
        reduced: Any = self.accelerator.reduce(means, "mean")
        return {**{name: float(value) for name, value in reduced.items()}, "skipped_steps": skipped}

    def counts(self) -> dict[str, int]:
        """The state, the same on all processes; `sums`, which differ, are the rest of it.

        Raises:
            InputError: at the limit of steps skipped.
        """
        self._stop_at_limit()
        return dict(zip(("parts", "skipped", "skipped_in_a_row"), self._counts.tolist(), strict=True))

    def load(self, sums: dict[str, Tensor], counts: dict[str, int]) -> None:
        """Resume from a state."""
        self.sums = sums
        known = [counts[name] for name in ("parts", "skipped", "skipped_in_a_row")]
        self._counts = torch.tensor(known, device=self.accelerator.device)

    def _stop_at_limit(self) -> None:
        """A collective call where steps have been skipped."""
        later = int(self._counts[2]) - self.limit  # steps since, skipped as well
        if later < 0:
            return
        problem = self._problem
        if not problem and self._last_bad is not None:
            batch = self._batch - later * self.accelerator.gradient_accumulation_steps
            problem = f"batch {batch}: {self._diagnosis(*self._last_bad)}"
        raise InputError(
            f"step {self._step - later} was the last of {self.limit} in a row that were skipped since not all numbers "
            f"were finite; {problem}\ntry a lower learning rate, more warm-up steps or a smaller max_grad_norm"
        )

    def _diagnosis(self, names: list[str], own: Tensor) -> str:
        """Name and value of each number, by process."""
        rows = enumerate(rows_of_all_processes(own[None]).tolist())
        lists = {p: ", ".join(f"{n} {value:.4g}" for n, value in zip(names, row, strict=True)) for p, row in rows}
        return "; ".join(f"process {p}: {text}" for p, text in lists.items()) if len(lists) > 1 else lists[0]
