"""`wvq benchmark sampling`: tokens a second against transformers' generate, and against what the machine allows."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from wvq.pipelines.processes import this_device
from wvq.prior import PriorConfig, PriorSize, build_prior, sample_tokens
from wvq.prior.decoder import forget_decoder
from wvq.prior.decoder.graphs import captured
from wvq.prior.decoder.packed_linear import PackedLinear
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import LARGEST_SEED, check_range
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home

from .memory import peak_memory


@dataclass(frozen=True)
class SamplingBenchmark:
    """A randomly initialised prior is sampled by this package and by transformers, in turn; medians are reported.

    What this package prepares of the weights at the first call is made anew in each, and part of its time.
    """

    output: str = "runs/benchmark-sampling.json"
    """File of the measurements."""
    model: PriorSize = field(default_factory=lambda: PriorSize(size="S"))
    """Size of the prior; the default, S, has 17 million parameters."""
    num_codes: int = 4096
    """Codes."""
    num_classes: int = 10
    """Classes."""
    lengths: tuple[int, ...] = (256,)
    """Tokens of an image."""
    batch_sizes: tuple[int, ...] = (1, 16)
    """Images at once."""
    guidance_scales: tuple[float, ...] = (1.0, 2.0)
    """1 is without guidance."""
    num_passes: tuple[int, ...] = (24, 16)
    """Passes in which a prior of free order and the same size draws an image, beside raster order in the same type;
    those that are more than the tokens are left out."""
    repeats: int = 5
    """Runs of each, after a short one that does not count."""
    seed: int = 0
    """Of weights and draws."""

    def __post_init__(self) -> None:
        expand_home(self, "output")
        check_range(self, "num_codes", least=2)
        check_range(self, "num_classes", "guidance_scales", least=0)
        check_range(self, "seed", least=0, most=LARGEST_SEED)
        object.__setattr__(self, "num_passes", tuple(self.num_passes))
        if min(self.num_passes, default=1) < 1:
            raise InputError(f"num_passes is {self.num_passes}; none can be below 1")
        for name in ("lengths", "batch_sizes", "guidance_scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name) or min(getattr(self, name)) < (name != "guidance_scales"):
                raise InputError(f"{name} is {getattr(self, name)}; give at least one, none below 1 (guidance: 0)")
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}; it must be at least 1")


def benchmark_sampling(config: SamplingBenchmark) -> str:
    """Measure, write the measurements as JSON, and return them as a table.

    Raises:
        InputError: for a model that cannot be.
    """
    device = this_device()
    bandwidth = read_bandwidth(device)
    rows = []
    for length in config.lengths:
        torch.manual_seed(config.seed)
        sizes: dict[str, Any] = {"num_codes": config.num_codes, "num_tokens": length, "num_classes": config.num_classes}
        model: PreTrainedModel = build_prior(PriorConfig(**asdict(config.model), **sizes)).eval()
        free: PreTrainedModel = build_prior(PriorConfig(**asdict(config.model), **sizes, token_order="random")).eval()
        for each in (model, free):
            each.to(torch.device(device))  # pyright: ignore[reportArgumentType]  # its decorator hides its self
        for batch in config.batch_sizes:
            for scale in config.guidance_scales:
                rows += _compare(model, free, config, length, batch, scale, bandwidth)
    about = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "read_bytes_per_second": bandwidth,
        "time": f"wall-clock seconds, median of {config.repeats} runs, samplers in turn",
    }
    write_json(Path(config.output), {"config": asdict(config), "protocol": about, "rows": rows})
    return f"{_table(rows)}\n{about['device']}, {about['threads']} threads"


def generate_with_transformers(model: PreTrainedModel, labels: Tensor, length: int, codes: int, scale: float) -> Tensor:
    """Sampling at temperature 1 by `generate`, guided by its own second forward pass; (B, T)."""
    null = torch.full_like(labels, model.config.vocab_size - 1)[:, None]
    guidance: dict[str, Any] = {"guidance_scale": scale, "negative_prompt_ids": null} if scale != 1 else {}
    return model.generate(  # pyright: ignore[reportCallIssue]
        (codes + labels)[:, None],
        attention_mask=torch.ones_like(null),
        do_sample=True,
        top_k=0,
        min_new_tokens=length,
        max_new_tokens=length,
        suppress_tokens=list(range(codes, model.config.vocab_size)),
        **guidance,
    )[:, 1:]


def _compare(
    model: PreTrainedModel,
    free: PreTrainedModel,
    config: SamplingBenchmark,
    length: int,
    batch: int,
    scale: float,
    bandwidth: float,
) -> list[dict[str, Any]]:
    """A row for each sampler; `free` is the prior of free order."""
    codes = config.num_codes
    labels = torch.arange(batch, device=model.device) % (config.num_classes or 1)
    ticks: list[float] = []

    def ours(tokens: int, dtype: torch.dtype | None = None) -> None:
        ticks.clear()
        sample_tokens(model, labels, tokens, codes, scale, on_token=lambda *_: ticks.append(_now(model)), dtype=dtype)

    def in_passes(number: int, dtype: torch.dtype | None = None) -> None:
        sample_tokens(free, labels, length, codes, scale, num_passes=number, dtype=dtype)

    samplers: dict[str, Callable[[int], Any]] = {
        "wvq": ours,
        "wvq, bfloat16": lambda tokens: ours(tokens, torch.bfloat16),
        "wvq, int8": lambda tokens: ours(tokens, torch.int8),
        "transformers": lambda tokens: generate_with_transformers(model, labels, tokens, codes, scale),
    }
    fewer = [number for number in config.num_passes if number <= length]
    for number in fewer:
        samplers[f"wvq, {number} passes"] = lambda _, number=number: in_passes(number)
        samplers[f"wvq, bfloat16, {number} passes"] = lambda _, number=number: in_passes(number, torch.bfloat16)
    passes = 1 if scale == 1 else 2
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    growth: dict[str, list[float]] = {name: [] for name in samplers}
    memory = dict.fromkeys(samplers, 0)
    for sampler in samplers.values():
        sampler(min(4, length))
    for _ in range(config.repeats):
        for name, sampler in samplers.items():
            ticks.clear()
            forget_decoder(model)
            forget_decoder(free)
            with peak_memory(model.device) as peak:
                start = _now(model)
                sampler(length)
                seconds[name].append(_now(model) - start)
            memory[name] = max(memory[name], peak.bytes)
            if len(ticks) >= 32:
                gaps = torch.tensor(ticks, dtype=torch.float64).diff()  # float32 would count in milliseconds
                growth[name].append(float(gaps[-15:].median() / gaps[:15].median()))
    arithmetic = batch / _product_seconds(model, codes, passes * batch)
    weights = sum(matrix.nbytes for matrix in _matrices(model, codes))
    width, layers, _ = config.model.shape
    cached = 2 * passes * batch * layers * width * model.dtype.itemsize
    memory_limit = batch * bandwidth / (weights + cached * length / 2)
    return [
        {
            "sampler": name,
            "tokens": length,
            "batch": batch,
            "guidance": scale,
            "tokens_per_second": batch * length / statistics.median(seconds[name]),
            "times_transformers": statistics.median(seconds["transformers"]) / statistics.median(seconds[name]),
            "times_raster": statistics.median(seconds[_raster_of(name)]) / statistics.median(seconds[name]),
            "last_over_first": statistics.median(growth[name]) if growth[name] else None,
            "peak_mebibytes": memory[name] / 2**20,
            "arithmetic_limit": arithmetic,
            "bandwidth_limit": memory_limit,
            "seconds": seconds[name],
        }
        for name in samplers
    ]


def _raster_of(sampler: str) -> str:
    """The sampler in raster order that one of a few passes is compared with, of the same type; else that in float32."""
    return "wvq, bfloat16" if sampler.startswith("wvq, bfloat16, ") else "wvq"


def _product_seconds(model: PreTrainedModel, num_codes: int, rows: int) -> float:
    """Seconds of one position's matrix products alone, in the model's dtype: the arithmetic limit."""
    products = [(PackedLinear(m, None, rows), m.new_ones(rows, m.shape[1])) for m in _matrices(model, num_codes)]

    def multiply() -> Tensor:
        return [product(x) for product, x in products][-1]

    run: Callable[[], Any] = multiply
    if model.device.type == "cuda":  # as a graph: the host takes longer to start products than a GPU to compute them
        run, *_ = captured(multiply)
    times = []
    for _ in range(11):
        start = _now(model)
        run()
        times.append(_now(model) - start)
    return statistics.median(times)


def _matrices(model: PreTrainedModel, num_codes: int) -> list[Tensor]:
    """All matrices by which a position is multiplied, (C_out, C_in)."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and (".layers." in n or ".h." in n)]
    if model.config.model_type == "gpt2":  # stored input first
        inner = [matrix.mT for matrix in inner]
    head = model.get_output_embeddings()
    assert head is not None
    return [matrix.detach() for matrix in [*inner, head.weight[:num_codes]]]


def processor() -> str:
    """The CPU's name, as Linux has it, and the vector instructions that torch uses on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'CPU'} ({torch.backends.cpu.get_cpu_capability()})"


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second at which a tensor larger than any cache is read."""
    big = torch.ones(2**27, dtype=torch.float32, device=device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        big.sum().item()
        times.append(time.perf_counter() - start)
    return big.numel() * big.element_size() / statistics.median(times)


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _table(rows: list[dict[str, Any]]) -> str:
    heads = {
        "sampler": "sampler", "tokens": "tokens", "batch": "batch", "guidance": "guidance",
        "tokens_per_second": "tokens/s", "times_transformers": "x transformers", "times_raster": "x raster",
        "last_over_first": "last/first",
        "peak_mebibytes": "peak MiB", "arithmetic_limit": "arithmetic limit", "bandwidth_limit": "bandwidth limit",
    }  # fmt: skip
    cells = [list(heads.values())]
    for row in rows:
        values = [row[name] for name in heads]
        cells.append(
            [
                f"{v:.2f}" if isinstance(v, float) and v < 20 else f"{v:.0f}" if isinstance(v, float) else str(v or "")
                for v in values
            ]
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
