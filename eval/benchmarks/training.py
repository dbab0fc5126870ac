"""`wvq benchmark training`: what the training loops cost beyond the bare step of the same model.

A loop is everything that a run does between two lines of metrics: data, flips or dropped classes, clipping, guards,
logging, checkpoints; evaluations are left out. The bare step is a forward pass, a backward pass and the optimizer's
step on batches that are already in memory. Both take turns.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.pipelines.processes import this_device
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.train_prior import PriorTraining, train_prior
from wvq.pipelines.train_tokenizer import TokenizerTraining, build_tokenizer_optimizers, train_tokenizer
from wvq.pipelines.training.muon import build_optimizers
from wvq.pipelines.training.run import read_metrics
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home
from wvq.tokenizer.tokens import TokenDataset

from .step_profile import profile_steps, profile_table

BATCHES = 8  # in memory, for the bare step


@dataclass(frozen=True)
class TrainingBenchmark:
    """Short runs of both stages and their bare steps, in turn; the medians of the rounds are reported."""

    output: str = "runs/benchmark-training.json"
    """File of the measurements."""
    data: DataConfig = field(default_factory=lambda: DataConfig(channels=1))
    """The images."""
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: TokenizerConfig(
            channels=1, patch_size=2, base_channels=32, channel_multipliers=(1, 2), num_blocks=1, codebook_size=1024
        )
    )
    """The tokenizer; by default a small one of 1,024 codes."""
    prior: PriorSize = field(default_factory=lambda: PriorSize(hidden_size=128, num_layers=4, num_heads=4))
    """Size of the prior; the default is that of `wvq demo`."""
    batch_size: int = 64
    """Images per step, of both stages."""
    steps: int = 110
    """Steps of a round; the first log_every of them are not counted."""
    log_every: int = 10
    """Steps between lines of metrics."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    rounds: int = 5
    """Rounds of which the median is taken."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the forward and backward passes."""
    profile: bool = False
    """Instead, where a step's time goes, in one run of each stage: data, host, forward, backward, optimizer,
    collective and other, and the share of what the device can compute at most, where that is known."""

    def __post_init__(self) -> None:
        expand_home(self, "output")
        for name in ("batch_size", "log_every", "checkpoint_every", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.steps % self.log_every or self.steps < 2 * self.log_every:
            raise InputError(f"steps is {self.steps}; it must be a multiple of log_every, {self.log_every}, from 2 on")


def benchmark_training(config: TrainingBenchmark) -> str:
    """Measure, write the measurements as JSON, and return them as a table.

    Raises:
        InputError: for data that cannot be read.
    """
    if config.profile:
        return _profile(config)
    rounds: dict[str, list[tuple[float, float]]] = {"tokenizer": [], "prior": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(config.rounds):
            tokenizer, prior = _trainings(config, Path(folder), number)
            train_tokenizer(tokenizer)
            rounds["tokenizer"].append((_loop_seconds(tokenizer), _bare_seconds(_tokenizer_steps(tokenizer), config)))
            train_prior(prior)
            rounds["prior"].append((_loop_seconds(prior), _bare_seconds(_prior_steps(prior), config)))
    rows = []
    for stage, seconds in rounds.items():
        loop, bare = (statistics.median(column) for column in zip(*seconds, strict=True))
        overhead = statistics.median(loop / bare - 1 for loop, bare in seconds)
        rows.append({"stage": stage, "loop": loop, "bare": bare, "overhead": overhead, "rounds": seconds})
    _write(config, rows)
    lines = [f"{'stage':<12}{'loop s':>10}{'bare s':>10}{'overhead':>10}"]
    return "\n".join(lines + ["{stage:<12}{loop:>10.4f}{bare:>10.4f}{overhead:>10.1%}".format(**row) for row in rows])


def _profile(config: TrainingBenchmark) -> str:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, prior = _trainings(config, Path(folder), 0)
        rows = {"tokenizer": profile_steps(train_tokenizer, tokenizer), "prior": profile_steps(train_prior, prior)}
    _write(config, [{"stage": stage, **row} for stage, row in rows.items()])
    return profile_table(rows)


def _write(config: TrainingBenchmark, rows: list[dict[str, Any]]) -> None:
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "seconds": "wall-clock, of a step"}
    write_json(Path(config.output), {"config": asdict(config), "protocol": about, "rows": rows})


def _trainings(config: TrainingBenchmark, folder: Path, number: int) -> tuple[TokenizerTraining, PriorTraining]:
    common: dict[str, Any] = {
        "data": config.data,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "warmup_steps": 0,
        "log_every": config.log_every,
        "evaluate_every": config.steps,
        "checkpoint_every": config.checkpoint_every,
        "mixed_precision": config.mixed_precision,
    }
    tokenizer = TokenizerTraining(
        output_dir=f"{folder}/tokenizer-{number}", model=config.tokenizer, evaluation_images=config.batch_size, **common
    )
    prior = PriorTraining(
        output_dir=f"{folder}/prior-{number}",
        tokenizer=f"{tokenizer.output_dir}/model",
        tokens_dir=f"{folder}/tokens",
        model=config.prior,
        sample_every=0,
        **common,
    )
    return tokenizer, prior


def _loop_seconds(training: TokenizerTraining | PriorTraining) -> float:
    """Seconds of a step, from the first line of metrics to the last."""
    lines = [row for row in read_metrics(Path(training.output_dir)) if row["split"] == "train"]
    return (lines[-1]["seconds"] - lines[0]["seconds"]) / (lines[-1]["step"] - lines[0]["step"])


def _bare_seconds(steps: Iterator[Callable[[], Tensor]], config: TrainingBenchmark) -> float:
    """Seconds of a step, over as many steps as the loop's are taken."""
    seconds = []
    for _, step in zip(range(config.steps), steps, strict=False):
        begun = time.perf_counter()
        step().item()  # waits for a GPU
        seconds.append(time.perf_counter() - begun)
    return statistics.mean(seconds[config.log_every :])


def _tokenizer_steps(training: TokenizerTraining) -> Iterator[Callable[[], Tensor]]:
    device = this_device()
    model = VQTokenizer(training.model).to(device)
    optimizers = build_tokenizer_optimizers(model, training, training.optimizer)
    images = load_splits(training.data)[0]
    size = training.batch_size
    batches = [to_model(images.take(chosen)["images"]) for chosen in _chosen(len(images), size)]

    def step(batch: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.mixed_precision == "bf16"):
            output = model(batch)
        loss = F.mse_loss(output.reconstructions.float(), batch) + output.quantizer.loss
        return _update(loss, optimizers)

    yield from (lambda batch=batch: step(batch) for batch in cycle([batch.to(device) for batch in batches]))


def _prior_steps(training: PriorTraining) -> Iterator[Callable[[], Tensor]]:
    device = this_device()
    tokens = TokenDataset(
        tokenize(Tokenization(training.tokenizer, training.data, training.tokens_dir, training.crops)), "train"
    )
    sizes: dict[str, Any] = {
        "num_tokens": tokens.num_tokens,
        "num_classes": len(tokens.class_names),
        "codes_per_position": tokens.codes_per_position,
    }
    description = PriorConfig(**asdict(training.model), num_codes=tokens.num_codes, **sizes)
    model = TokenLoss(build_prior(description), tokens.num_codes).to(device).train()
    optimizers = build_optimizers(model, training)
    size = training.batch_size
    batches = [tokens.take(chosen) for chosen in _chosen(len(tokens), size)]

    def step(batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.mixed_precision == "bf16"):
            loss = model(batch["tokens"].to(device), batch["labels"].to(device))
        return _update(loss, optimizers)

    yield from (lambda batch=batch: step(batch) for batch in cycle(batches))


def _chosen(count: int, size: int) -> list[list[int]]:
    """Indices of a few batches from so many items."""
    return [[index % count for index in range(n * size, n * size + size)] for n in range(BATCHES)]


def _update(loss: Tensor, optimizers: list[torch.optim.Optimizer]) -> Tensor:
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.detach()
