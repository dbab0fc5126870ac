"""Equal budgets: a stage's training in steps, in images, or in seconds of this machine."""

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.pipelines.training.run import read_metrics
from wvq.tokenizer import InputError
from wvq.tokenizer.quantizers.initialization import CANDIDATES
from wvq.tokenizer.storage.atomic import write_json

PROBE_STEPS, PROBE_EVERY = 40, 10


@dataclass(frozen=True)
class Budget:
    """What each training of a stage may use, in place of its `steps`: images or seconds, or neither for the steps."""

    images: int | None = None
    """Images seen; the steps are these over the batch size, rounded down."""
    seconds: float | None = None
    """Seconds of optimizer steps on this machine; how many steps that is, is measured once for a method and setting."""

    def __post_init__(self) -> None:
        if self.images is not None and self.seconds is not None:
            raise InputError(f"a budget has images = {self.images} and seconds = {self.seconds}; give one of the two")
        if self.images is not None and self.images < 1:
            raise InputError(f"a budget has images = {self.images}; it must be at least 1")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise InputError(f"a budget has seconds = {self.seconds}; it must be above 0 and finite")

    @property
    def given(self) -> bool:
        return self.images is not None or self.seconds is not None


def apply_budget(training: Any, budget: Budget) -> Any:
    """The training with the steps that a budget of images buys; with any other budget it stays as it is.

    Raises:
        InputError: if the images do not fill one batch.
    """
    if budget.images is None:
        return training
    steps = budget.images // training.batch_size
    if not steps:
        raise InputError(f"a budget of {budget.images} images buys no step of batch_size {training.batch_size}")
    return replace(training, steps=steps)


def measure_steps(train: Callable[[Any], Any], training: Any, seconds: float, path: Path, passed_over: int = 0) -> None:
    """Train a few steps in a folder that is thrown away, and write to `path` how many take `seconds`.

    The median over spans of steps, the first left out; evaluation and checkpoints are not in it. Nothing is measured
    if `path` exists, so that a resumed comparison has the very same steps.

    Args:
        train: trains as `training` says.
        training: of the stage.
        seconds: of the budget.
        path: of the JSON that is written.
        passed_over: steps at the start that are not as the others are, a multiple of `PROBE_EVERY`.

    Raises:
        InputError: if the seconds do not suffice for one step.
    """
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        steps = passed_over + PROBE_STEPS
        probe = {"output_dir": folder, "steps": steps, "warmup_steps": 0, "log_every": PROBE_EVERY}
        train(replace(training, **probe, evaluate_every=steps, checkpoint_every=steps))
        rows = [row for row in read_metrics(Path(folder)) if row["split"] == "train" and row["step"] > passed_over]
    spans = [after["seconds"] - before["seconds"] for before, after in pairwise(rows)]
    second_per_step = statistics.median(spans) / PROBE_EVERY
    steps = int(seconds / second_per_step)
    if not steps:
        raise InputError(f"a budget of {seconds:g} seconds buys no step; one takes {second_per_step:.3g}")
    write_json(path, {"steps": steps, "seconds": seconds, "seconds_per_step": second_per_step})


def steps_without_codes(training: TokenizerTraining) -> tuple[TokenizerTraining, int]:
    """The training with codes that are drawn as soon as they can be, and the steps before that, for `measure_steps`.

    Features pass unquantized in those, and no code is searched. A multiple of `PROBE_EVERY`.
    """
    model = training.model
    options = dict(model.quantizer_options)
    if options.get("initialization_steps"):
        options["initialization_steps"] = 0
    vectors = training.batch_size * model.num_positions
    needed = CANDIDATES.get(options.get("initialization", "data"), 0) * model.codebook_size
    waiting = model.codes_per_position * math.ceil(needed / vectors)
    training = replace(training, model=replace(model, quantizer_options=options))
    return training, math.ceil(waiting / PROBE_EVERY) * PROBE_EVERY
