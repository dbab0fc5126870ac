"""`wvq benchmark prior`: training tokens a second and memory, beside a plain GPT in a plain loop of the same shape.

Every contender runs in a process of its own, one after the other: forward and backward pass, clipping and optimizer
step on random tokens. The arithmetic limit is what the products of the contender's matrices alone would allow.
"""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wvq.pipelines.processes import this_device
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.training.muon import build_optimizers
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.prior.loss import TokenLoss
from wvq.prior.sampled_softmax import Proposal
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import LARGEST_SEED, check_range
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home

from .memory import peak_memory

CONTENDERS = ("wvq llama, muon", "wvq llama, adamw", "wvq gpt2, adamw", "plain gpt, adamw")
Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class PriorBenchmark:
    """Cost of a training step of the prior."""

    output: str = "runs/benchmark-prior.json"
    """File of the measurements."""
    contenders: tuple[str, ...] = CONTENDERS
    """What is measured; "plain gpt" is a loop written out in plain torch, as in nanoGPT."""
    model: PriorSize = field(default_factory=lambda: PriorSize(size="S"))
    """Width, layers and heads, of all contenders; each brings its architecture."""
    num_codes: int = 4096
    """Codes."""
    num_classes: int = 10
    """Classes."""
    num_tokens: int = 256
    """Tokens of an image."""
    batch_size: int = 8
    """Images of a step."""
    sampled_ids: int = 0
    """Ids that the loss of the contenders of wvq compares a token with, as in `wvq train-prior`; 0 for all."""
    mixed_precision: bool = False
    """Whether forward and backward passes are in bfloat16."""
    repeats: int = 5
    """Steps of which the median is taken, after one that does not count."""
    seed: int = 0
    """Of weights and tokens."""

    def __post_init__(self) -> None:
        expand_home(self, "output")
        object.__setattr__(self, "contenders", tuple(self.contenders))
        check_range(self, "seed", least=0, most=LARGEST_SEED)
        if unknown := [name for name in self.contenders if name not in CONTENDERS]:
            raise InputError(f"contenders holds '{unknown[0]}'; valid are {', '.join(CONTENDERS)}")
        for name in ("num_codes", "num_classes", "num_tokens", "batch_size", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_range(self, "sampled_ids", least=0)


def benchmark_prior(config: PriorBenchmark) -> str:
    """Measure, write the measurements as JSON, and return them as a table."""
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for contender in progress_bar(config.contenders, unit="contender"):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            rows.append(process.submit(measure, config, contender).result())
    about = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "time": f"wall-clock seconds of a step, median of {config.repeats}",
    }
    write_json(Path(config.output), {"config": asdict(config), "protocol": about, "rows": rows})
    lines = [f"{'contender':<20}{'parameters':>12}{'tokens/s':>10}{'limit':>8}{'share':>7}{'peak MiB':>10}"]
    lines += [
        f"{row['contender']:<20}{row['parameters']:>12,}{row['tokens_per_second']:>10.0f}{row['arithmetic_limit']:>8.0f}"
        f"{row['tokens_per_second'] / row['arithmetic_limit']:>7.0%}{row['peak_mebibytes']:>10.0f}"
        for row in rows
    ]
    return "\n".join(lines)


def measure(config: PriorBenchmark, contender: str) -> dict[str, Any]:
    """One contender's row."""
    device = this_device()
    torch.manual_seed(config.seed)
    codes = torch.randint(config.num_codes, (config.batch_size, config.num_tokens), device=device)
    labels = torch.randint(config.num_classes, (config.batch_size,), device=device)
    seconds: list[float] = []
    with peak_memory(device) as peak:
        model, step = build_step(config, contender, device)
        for _ in range(config.repeats + 1):
            start = _now(device)
            step(codes, labels)
            seconds.append(_now(device) - start)
    tokens = config.batch_size * config.num_tokens
    return {
        "contender": contender,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": tokens / statistics.median(seconds[1:]),
        "arithmetic_limit": tokens / product_seconds(model, tokens, config.mixed_precision),
        "peak_mebibytes": peak.bytes / 2**20,
        "seconds": seconds[1:],
    }


def build_step(config: PriorBenchmark, contender: str, device: torch.device) -> tuple[nn.Module, Step]:
    """A contender's model and its training step on codes (B, T) and labels (B,)."""
    vocabulary = config.num_codes + config.num_classes + 1
    rate: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95)}
    if contender == "plain gpt, adamw":
        model: nn.Module = PlainGPT(vocabulary, config.num_tokens, *config.model.shape).to(device)
        groups = [
            {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.05},
            {"params": [p for p in model.parameters() if p.ndim != 2], "weight_decay": 0.0},
        ]
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, fused=True, **rate)]

        def loss(codes: Tensor, labels: Tensor) -> Tensor:
            logits = model(torch.cat([(labels + config.num_codes)[:, None], codes[:, :-1]], dim=1))
            return F.cross_entropy(logits.flatten(0, 1), codes.flatten())
    else:
        ours, optimizer = contender.removeprefix("wvq ").split(", ")
        about: dict[str, Any] = {**asdict(config.model), "architecture": ours}
        for name in ("num_codes", "num_tokens", "num_classes"):
            about[name] = getattr(config, name)
        model = token_loss = TokenLoss(build_prior(PriorConfig(**about)), config.num_codes).to(device)
        proposal, batches = Proposal(torch.ones(config.num_codes, device=device), vocabulary), itertools.count()
        optimizers = build_optimizers(model, PriorTraining(optimizer=optimizer))  # pyright: ignore[reportArgumentType]

        def loss(codes: Tensor, labels: Tensor) -> Tensor:
            drawn = proposal.draw(config.seed, next(batches), config.sampled_ids) if config.sampled_ids else None
            return token_loss(codes, labels, sample=drawn)

    def step(codes: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
            value = loss(codes, labels)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return model.train(), step


class PlainGPT(nn.Module):
    """A GPT in plain torch: layer norms and linear layers without bias, GELU, learnt positions, tied embeddings."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class PlainBlock(nn.Module):
    """Attention and feed-forward layer, each behind a norm and added to what it was given."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def product_seconds(model: nn.Module, rows: int, half: bool) -> float:
    """Seconds of the matrix products of one step: each matrix once forward and twice backward, for that many rows."""
    matrices = [p.detach() for name, p in model.named_parameters() if p.ndim == 2 and "position" not in name]
    tables = [m for name, m in model.named_parameters() if "embed_tokens" in name or "wpe" in name]
    dtype = torch.bfloat16 if half else torch.float32
    times = []
    for _ in range(4):
        spent = 0.0
        for matrix in matrices:
            if any(matrix.data_ptr() == table.data_ptr() for table in tables):
                continue  # looked up, not multiplied
            by, x = matrix.to(dtype), matrix.new_ones(rows, matrix.shape[1], dtype=dtype)
            start = _now(matrix.device)
            y = x @ by.mT
            _ = y @ by, y.mT @ x
            spent += _now(matrix.device) - start
        times.append(spent)
    return statistics.median(times[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
