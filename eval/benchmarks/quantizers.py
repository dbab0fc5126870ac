"""`wvq benchmark quantizers`: time and memory of a training step of every quantizer, beside other implementations.

Every contender runs in a process of its own, one after the other: a forward and a backward pass over fresh vectors, in
training mode. Vectors have the distribution of the contender's codes, as they do once a codebook fits; the search of a
codebook that does not fit yet is a contender of its own. The peers compute all N x K distances, whatever the vectors.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wvq.tokenizer import InputError, build_quantizer
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.quantizers.base import Quantizer
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home

from ..studies.figures import cost_figure
from .memory import peak_memory

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {}),
    "ema": ("ema", {}),
    "online": ("online", {}),
    "linear": ("linear", {}),
    "wasserstein": ("wasserstein", {}),
    "transport": ("wasserstein", {"alignment": "transport"}),
    "mmd": ("mmd", {}),
    "wasserstein, codes at the start": ("wasserstein", {"init_std": 0.01}),
}
PEERS = ("plain N x K", "vector-quantize-pytorch EMA", "vector-quantize-pytorch SimVQ")


@dataclass(frozen=True)
class QuantizerBenchmark:
    """Cost of a training step against codebook size and dimension."""

    output_dir: str = "runs/benchmark-quantizers"
    """Where quantizers.json and quantizers.png go."""
    contenders: tuple[str, ...] = (*OURS, *PEERS)
    """Names of quantizers and peers; the peers need the package vector-quantize-pytorch."""
    codebook_sizes: tuple[int, ...] = (1024, 16_384, 100_000)
    """K."""
    codebook_dims: tuple[int, ...] = (8, 32)
    """D."""
    num_vectors: int = 8192
    """N."""
    repeats: int = 5
    """Steps of which the median is taken, after one that is not counted; at least 3."""
    max_seconds: float = 60.0
    """A contender that has taken this long stops after its third counted step."""
    threads: int = 0
    """Threads of torch; 0 for its own choice."""

    def __post_init__(self) -> None:
        expand_home(self, "output_dir")
        for name in ("contenders", "codebook_sizes", "codebook_dims"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_range(self, "codebook_sizes", least=2)
        check_range(self, "codebook_dims", least=1)
        check_range(self, "max_seconds", least=0)
        if unknown := [name for name in self.contenders if name not in (*OURS, *PEERS)]:
            raise InputError(f"contenders holds '{unknown[0]}'; valid are {', '.join((*OURS, *PEERS))}")
        for name, least in (("num_vectors", 1), ("repeats", 3), ("threads", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def benchmark_quantizers(config: QuantizerBenchmark) -> Path:
    """Measure all contenders, print the table, and write JSON and figure; returns the figure."""
    rows: list[dict[str, Any]] = []
    cases = [(c, k, d) for d in config.codebook_dims for k in config.codebook_sizes for c in config.contenders]
    spawn = multiprocessing.get_context("spawn")
    for contender, size, dim in progress_bar(cases, unit="contender"):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            rows.append(process.submit(measure, config, contender, size, dim).result())
    folder = Path(config.output_dir)
    threads = config.threads or torch.get_num_threads()
    write_json(folder / "quantizers.json", {"protocol": {**asdict(config), "threads": threads}, "rows": rows})
    cost_figure(rows, folder / "quantizers.png")
    print(f"{'contender':<34}{'K':>8}{'D':>4}{'seconds':>10}{'MiB':>8}")
    for row in rows:
        print("{contender:<34}{codebook_size:>8}{codebook_dim:>4}{seconds:>10.4f}{peak_mib:>8.0f}".format(**row))
    return folder / "quantizers.png"


def measure(config: QuantizerBenchmark, contender: str, size: int, dim: int) -> dict[str, Any]:
    """Median seconds of a step, and the memory that the process took beyond what it had before the quantizer."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    seconds: list[float] = []
    with peak_memory(torch.device("cpu")) as peak:
        step, scale = build_step(contender, size, dim)
        while len(seconds) < config.repeats + 1 and (len(seconds) < 4 or sum(seconds) < config.max_seconds):
            vectors = (torch.randn(config.num_vectors, dim) * scale).requires_grad_()
            start = time.perf_counter()
            step(vectors).backward()
            seconds.append(time.perf_counter() - start)
    return {
        "contender": contender,
        "codebook_size": size,
        "codebook_dim": dim,
        "seconds": statistics.median(seconds[1:]),
        "fastest": min(seconds[1:]),
        "slowest": max(seconds[1:]),
        "peak_mib": peak.bytes / 2**20,
    }


def build_step(contender: str, size: int, dim: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """From vectors (N, D) to the loss of a training step, and the vectors' standard deviations (D,)."""
    if contender in OURS:
        name, options = OURS[contender]
        quantizer = build_quantizer(name, size, dim, **{"init_std": 1.0, "initialization": "normal", **options})
        assert isinstance(quantizer, Quantizer)
        fits = "init_std" not in options
        scale = quantizer.codebook.detach().std(dim=0) if fits else torch.ones(dim)

        def ours(vectors: Tensor) -> Tensor:
            output = quantizer(vectors)
            return output.loss + output.quantized.sum()

        return ours, scale
    if contender == "plain N x K":
        codebook = nn.Parameter(torch.randn(size, dim))

        def plain(vectors: Tensor) -> Tensor:
            codes = codebook[torch.cdist(vectors.detach(), codebook.detach()).argmin(dim=1)]
            loss = F.mse_loss(vectors, codes.detach()) + F.mse_loss(codes, vectors.detach())
            return loss + (vectors + (codes - vectors).detach()).sum()

        return plain, torch.ones(dim)
    try:
        import vector_quantize_pytorch as peer
    except ImportError as error:
        raise InputError(f"contender '{contender}' needs the package vector-quantize-pytorch") from error
    module = (
        peer.VectorQuantize(dim=dim, codebook_size=size)
        if contender.endswith("EMA")
        else peer.SimVQ(dim=dim, codebook_size=size)
    )

    def theirs(vectors: Tensor) -> Tensor:
        quantized, _, loss = module(vectors[None])
        return loss.sum() + quantized.sum()

    return theirs, torch.ones(dim)
