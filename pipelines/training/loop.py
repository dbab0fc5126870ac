"""What every training loop does beside its own forward pass and loss: a loop is a `for` over one of these."""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from wvq.tokenizer.data import ImageDataset
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader, uniform_draws
from wvq.tokenizer.decided_there import may_ask
from wvq.tokenizer.precision import layers_in_tf32
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.tokens import TokenDataset

from .accelerator import note_precision, start_trackers
from .memory import memory_advice
from .run import Run
from .sharding import WeightAverage, weight_average
from .state import TrainingState
from .step_record import StepRecord, asks_after
from .stopping import stop_request


class Loop:
    """The micro-batches of a run from its newest checkpoint to its last step, and what surrounds them.

    It prepares model and optimizers for the processes, resumes, loads, keeps the bar, the learning rate and the moving
    average; after the body of the `for` it writes checkpoints and stops on a signal. The body reads

        with Loop(run, "tokenizer", model, [optimizer], train_set) as loop:
            for batch in loop:                                  # one micro-batch
                with loop.step():                               # no update that is not finite is made
                    loss = ...                                  # of loop.model
                    loop.backward(loss)
                    loop.update(optimizer, model=parameters)    # with the last micro-batch of a step
                if loop.due(config.evaluate_every):
                    ...

    With several losses and optimizers `backward` and `update` are called once for each.

    Args:
        run: the folder, with its `TrainingConfig` and Accelerator.
        tracker: name of the project that trackers are told.
        model: not prepared yet.
        optimizers: of its parameters; each group has its peak learning rate under "peak".
        train_set: items by index.
        num_workers: processes that load it.

    Attributes:
        model: prepared.
        average: moving average of its weights, or None.
        step_number: optimizer steps made, those that were skipped included.

    Raises:
        InputError: if every checkpoint is damaged or a tracker does not start; in the loop, if the memory does not
            suffice or too many steps in a row are skipped.
    """

    def __init__(
        self,
        run: Run,
        tracker: str,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        train_set: ImageDataset | TokenDataset,
        num_workers: int = 0,
    ):
        self.run, self.config, self.accelerator = run, run.config, run.accelerator
        if self.config.log_with:
            start_trackers(self.accelerator, tracker)
        self.average: WeightAverage | None = None
        if self.config.ema_decay:  # before the model is prepared, since shards cannot be copied
            self.average = weight_average(model, self.config.ema_decay, self.accelerator)
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        # Whether an optimizer can leave all as it was by a tensor, `found_inf`, is said by torch's own name for that.
        leaves = [getattr(optimizer.optimizer, "_step_supports_amp_scaling", False) for optimizer in self.optimizers]
        self._asks = may_ask(self.accelerator.device) or not all(leaves)
        self.record = StepRecord(self.accelerator, self.model, self.config.max_skipped_steps)
        self.state = TrainingState(self.accelerator, self.model, self.optimizers, self.record, self.average)
        self.step_number = run.resume(self.state)

        micro_batches = self.accelerator.gradient_accumulation_steps
        self.number = self.step_number * micro_batches  # of the micro-batch
        batches = ShuffledBatches(
            train_set.shard_sizes,
            self.config.batch_size // micro_batches,
            self.number,
            self.config.steps * micro_batches,
            self.config.seed,
        )
        self.loader = self.accelerator.prepare(training_loader(train_set, batches, num_workers))
        self.progress = progress_bar(
            total=self.config.steps,
            initial=self.step_number,
            desc=f"{run.folder.absolute().parent.name}/{run.folder.name}",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        self._started = time.perf_counter() - max((row.get("seconds", 0.0) for row in run.metrics()), default=0.0)
        self._busy, self._logged = 0.0, self.step_number  # seconds of steps since the last line of metrics; its step

    @property
    def evaluated(self) -> Any:
        """The model that is evaluated and saved: the moving average, or the one that is trained."""
        return self.average.module if self.average else self.accelerator.unwrap_model(self.model)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.run)
            stack.enter_context(self.progress)
            self.stop = stack.enter_context(stop_request(self.accelerator))
            layers = stack.enter_context(layers_in_tf32(self.accelerator.device))
            note_precision(self.run.folder, self.accelerator, layers, self.say)
            stack.enter_context(memory_advice(self.config, self.accelerator))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self._fetched = time.perf_counter()
        for number, batch in enumerate(self.loader, start=self.number):
            self.number = number
            yield {name: values.to(self.accelerator.device) for name, values in batch.items()}
            if self.accelerator.sync_gradients:
                alone = self.accelerator.num_processes == 1  # so that no device has to be asked
                asks = alone or asks_after(self.step_number, self.accelerator.device)
                stopping = asks and self.stop.requested()
                if self.due(self.config.checkpoint_every) or stopping:
                    self.run.save_checkpoint(self.step_number, self.state)
                if stopping:
                    self.stop.exit(self.step_number)
            self._fetched = time.perf_counter()

    def drawn(self, count: int, probability: float) -> Tensor:
        """Which of the `count` items of this process's micro-batch are drawn, each with that probability; bool."""
        draws = uniform_draws(self.config.seed, self.number, count)
        drawn = draws < probability  # before it is moved: not every device has float64
        return drawn.to(self.accelerator.device, non_blocking=True)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around forward, backward and update of a micro-batch; `step_number` counts the step after its last one."""
        self.model.train()
        with self.accelerator.accumulate(self.model), self.record.guard(self.step_number + 1, self.number):
            scale = self.config.lr_scale(self.step_number)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = scale * group["peak"]
            yield
        if self.accelerator.sync_gradients:
            self.step_number += 1
            self.progress.update()
            if self.average:
                self.average.follow(self.accelerator.unwrap_model(self.model), self.record.made)
        self._busy += time.perf_counter() - self._fetched

    def backward(self, loss: Tensor, terms: dict[str, Tensor] | None = None) -> None:
        """Add the gradients of a loss, a scalar, and take note of it and of the terms it is made of."""
        self.accelerator.backward(loss)
        self.record.add({"loss": loss} if terms is None else terms)

    def update(self, *optimizers: Any, **parameters: Iterable[nn.Parameter]) -> None:
        """With the last micro-batch of a step: clip the gradients of each of these groups, check, make the step.

        Args:
            optimizers: prepared, of `self.optimizers`.
            parameters: groups that are clipped each by itself, under the names that messages call them by.
        """
        found_inf = None
        if self.accelerator.sync_gradients:
            largest = self.config.max_grad_norm
            norms = {name: self.accelerator.clip_grad_norm_(own, largest) for name, own in parameters.items()}
            found_inf = self.record.check(asks=self._asks, **norms)
        for optimizer in optimizers:
            if found_inf is not None:
                optimizer.optimizer.found_inf = found_inf
            optimizer.step()
            optimizer.zero_grad()

    def due(self, every: int) -> bool:
        """Whether a step has just been made after which something is done that comes `every` steps (0: never) and at
        the end."""
        last = self.step_number == self.config.steps
        return every > 0 and self.accelerator.sync_gradients and (self.step_number % every == 0 or last)

    def log(self, unit: str, size: int) -> None:
        """Write the means since the last line, the learning rate, and how many of `unit`, `size` a step, a second."""
        means = self.record.means()
        speed = (self.step_number - self._logged) * size / self._busy
        rate = self.config.learning_rate * self.config.lr_scale(self.step_number - 1)
        timing = {f"{unit}_per_second": speed, "seconds": time.perf_counter() - self._started}
        self.run.log(self.step_number, "train", {**means, "learning_rate": rate, **timing})
        self.progress.set_postfix({"loss": f"{means.get('loss', math.nan):.4f}", f"{unit}_s": f"{speed:.0f}"})
        self._busy, self._logged = 0.0, self.step_number

    def log_evaluation(self, scores: dict[str, float], summary: str) -> None:
        """Write the scores of an evaluation, and show their summary above the bar."""
        self.run.log(self.step_number, "evaluation", scores)
        self.say(f"step {self.step_number}: {summary}")

    def say(self, text: str, warning: bool = False) -> None:
        """Show a line above the bar, of the first process alone."""
        if self.accelerator.is_main_process:
            self.progress.write(text, file=sys.stderr if warning else sys.stdout)
