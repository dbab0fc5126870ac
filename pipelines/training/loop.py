"""What every training loop does beside its own forward pass and loss: a loop is a `for` over one of these."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wvq.tokenizer.data import ImageDataset
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader, uniform_draws
from wvq.tokenizer.decided_there import may_ask
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.precision import layers_in_tf32
from wvq.tokenizer.progress import duration_in_words, progress_bar, shares_output
from wvq.tokenizer.tokens import TokenDataset
from wvq.tokenizer.transplant.latents import LatentDataset

from .accelerator import note_precision
from .checkpoints.state import TrainingState
from .memory import memory_advice
from .phases import enter
from .run import Run
from .sharding import WeightAverage, weight_average
from .step_record import StepRecord, asks_after
from .stopping import stop_request
from .trackers import Trackers

FIRST_STEPS, FIRST_SECONDS = 10, 20.0  # after which a training says how long it will take; its very first is left out
MANY_HOURS = 3.0  # for which a CPU has better to do


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
        smaller: options of a smaller model, to be named where a CPU will take many hours.

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
        train_set: ImageDataset | LatentDataset | TokenDataset,
        num_workers: int = 0,
        smaller: str = "",
    ):
        self.run, self.config, self.accelerator = run, run.config, run.accelerator
        self.trackers = Trackers(run, tracker) if self.config.log_with else None
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
        self._first: list[float] | None = [0.0]  # seconds of the first steps and of the one that is made
        self._smaller = smaller

    @property
    def evaluated(self) -> Any:
        """The model that is evaluated and saved: the moving average, or the one that is trained."""
        return self.average.module if self.average else self.accelerator.unwrap_model(self.model)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.run)
            stack.enter_context(self.progress)
            if self.trackers:
                stack.callback(self.trackers.finish)
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
        enter("data")
        for number, batch in enumerate(self.loader, start=self.number):
            self.number = number
            moved = {name: values.to(self.accelerator.device) for name, values in batch.items()}
            enter("host")
            yield moved
            if self.accelerator.sync_gradients:
                alone = self.accelerator.num_processes == 1  # so that no device has to be asked
                asks = alone or asks_after(self.step_number, self.accelerator.device)
                stopping = asks and self.stop.requested()
                if self.due(self.config.checkpoint_every, self.config.turning_point) or stopping:
                    self.run.save_checkpoint(self.step_number, self.state)
                if stopping:
                    self.run.wait()
                    self.stop.exit(self.step_number)
            self._fetched = time.perf_counter()
            enter("data")

    def drawn(self, count: int, probability: float) -> Tensor:
        """Which of the `count` items of this process's micro-batch are drawn, each with that probability; bool."""
        draws = uniform_draws(self.config.seed, self.number, count)
        drawn = draws < probability  # before it is moved: not every device has float64
        return drawn.to(self.accelerator.device, non_blocking=True)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around forward, backward and update of a micro-batch; `step_number` counts the step after its last one."""
        enter("forward")
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
        enter("other")
        seconds = time.perf_counter() - self._fetched
        self._busy += seconds
        self._time_first_steps(seconds)

    def _time_first_steps(self, seconds: float) -> None:
        """Take note of a micro-batch; after the first steps say how long the others will take."""
        if self._first is None:
            return
        self._first[-1] += seconds
        if not self.accelerator.sync_gradients:
            return
        counted = self._first[1:]
        if len(counted) < FIRST_STEPS and sum(counted) < FIRST_SECONDS:
            self._first.append(0.0)
            return
        self._first, left = None, self.config.steps - self.step_number
        if left:
            on_cpu = self.accelerator.device.type == "cpu"
            self.say(duration_line(statistics.median(counted), left, self._smaller if on_cpu else ""))

    def backward(self, loss: Tensor, terms: dict[str, Tensor] | None = None) -> None:
        """Add the gradients of a loss, a scalar, and take note of it and of the terms it is made of."""
        enter("backward")
        self.accelerator.backward(loss)
        self.record.add({"loss": loss} if terms is None else terms)
        enter("forward")  # of another loss, if there is one

    def update(self, *optimizers: Any, **parameters: Iterable[nn.Parameter]) -> None:
        """With the last micro-batch of a step: clip the gradients of each of these groups, check, make the step.

        Args:
            optimizers: prepared, of `self.optimizers`.
            parameters: groups that are clipped each by itself, under the names that messages call them by.
        """
        enter("optimizer")
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

    def due(self, every: int, also: int = 0) -> bool:
        """Whether a step has just been made after which something is done that comes `every` steps (0: never), after
        step `also` and at the end."""
        special = self.step_number in (also, self.config.steps)
        return every > 0 and self.accelerator.sync_gradients and (self.step_number % every == 0 or special)

    def log(self, unit: str, size: int) -> None:
        """Write the means since the last line, the learning rate, and how many of `unit`, `size` a step, a second."""
        means = self.record.means()
        speed = (self.step_number - self._logged) * size / self._busy
        rate = self.config.learning_rate * self.config.lr_scale(self.step_number - 1)
        timing = {f"{unit}_per_second": speed, "seconds": time.perf_counter() - self._started}
        self._write("train", {**means, "learning_rate": rate, **timing})
        self.progress.set_postfix({"loss": f"{means.get('loss', math.nan):.4f}", f"{unit}_s": f"{speed:.0f}"})
        self._busy, self._logged = 0.0, self.step_number

    def log_evaluation(self, scores: dict[str, float], summary: str, code_usage: Tensor | None = None) -> None:
        """Write the scores of an evaluation, and show their summary above the bar.

        Args:
            scores: by their names.
            summary: in words.
            code_usage: how often each code was chosen (K,), for the trackers.
        """
        self._write("evaluation", scores)
        if self.trackers and code_usage is not None:
            self.trackers.histogram("evaluation/code_usage", "evaluation", self.step_number, code_usage)
        self.say(f"step {self.step_number}: {summary}")

    def draw(self, name: str, write: Callable[[Path], None]) -> None:
        """Have the first process write this step's picture to the path that it is given; trackers get it as `name`.

        Whatever is drawn at random for it, as by a model that is loaded, changes nothing in the training.
        """
        path = self.run.folder / "images" / f"step-{self.step_number:08d}.png"
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            on_first_process(partial(write, path))
        if self.trackers:
            self.trackers.picture(name, self.step_number, path)

    def _write(self, split: str, values: dict[str, float]) -> None:
        self.run.log(self.step_number, split, values)
        if self.trackers:
            self.trackers.scalars(split, self.step_number, values)

    def say(self, text: str, warning: bool = False) -> None:
        """Show a line above the bar, of the first process alone."""
        if self.accelerator.is_main_process:
            text = f"{self.progress.desc}: {text}" if shares_output() else text
            self.progress.write(text, file=sys.stderr if warning else sys.stdout)


def duration_line(seconds: float, left: int, smaller: str = "") -> str:
    """How long a training takes at the speed of its first steps, and what takes less.

    Args:
        seconds: of a step.
        left: steps to come.
        smaller: options of a smaller model, which are named if it takes many hours.
    """
    line = f"about {duration_in_words(seconds * left)} for {left:,} more steps of {seconds:.3g} s, without evaluations"
    if smaller and seconds * left > MANY_HOURS * 3600:
        line += f"; this is a CPU, for which there are smaller sizes: {smaller}, or fewer --steps"
    return line
