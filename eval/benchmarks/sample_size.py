"""`wvq benchmark sample-size`: the distance of two samples of one distribution, plain and extrapolated."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer import InputError
from wvq.tokenizer.errors import LARGEST_SEED, check_range
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home

from ..metrics.frechet_infinity import frechet_infinity
from ..studies.figures import sample_size_figure


@dataclass(frozen=True)
class SampleSizeBenchmark:
    """Fréchet distance and FID-infinity of pairs of samples whose true distance is 0, against the number of images."""

    output_dir: str = "runs/benchmark-sample-size"
    """Where sample-size.json and sample-size.png go."""
    dimension: int = 64
    """Of the features, drawn from a Gaussian whose standard deviations fall from 1 to 0.1."""
    counts: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    """Images of each sample, the larger ones beginning with the smaller ones."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Of the pairs."""

    def __post_init__(self) -> None:
        expand_home(self, "output_dir")
        for name in ("counts", "seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_range(self, "seeds", least=0, most=LARGEST_SEED)
        if not self.counts or not self.seeds or min(self.counts) <= 3 * self.dimension or self.dimension < 1:
            raise InputError(
                f"counts is {self.counts}, seeds {self.seeds} and dimension {self.dimension}; give at least one of "
                "each, and counts above three times the dimension"
            )


def benchmark_sample_size(config: SampleSizeBenchmark) -> str:
    """Measure, write JSON and figure, and return the table of means over the pairs."""
    scales = torch.logspace(0, -1, config.dimension, dtype=torch.float64)
    rows: list[dict[str, Any]] = []
    for seed in progress_bar(config.seeds, unit="pair"):
        generator = torch.Generator().manual_seed(seed)
        shape = max(config.counts), config.dimension
        pair = [torch.randn(*shape, generator=generator, dtype=torch.float64) * scales for _ in range(2)]
        rows += [_row(seed, count, *pair) for count in config.counts]
    folder = Path(config.output_dir)
    protocol = {**asdict(config), "interval": "95 %, by a jackknife over 10 groups", "truth": 0.0}
    write_json(folder / "sample-size.json", {"protocol": protocol, "rows": rows})
    sample_size_figure(rows, folder / "sample-size.png")
    lines = [f"{'images':>8}{'distance':>10}{'extrapolated':>14}{'low':>10}{'high':>10}{'holds 0':>12}"]
    for count in config.counts:
        mine = [row for row in rows if row["count"] == count]
        means = [sum(row[name] for row in mine) / len(mine) for name in ("plain", "value", "low", "high")]
        held = sum(row["low"] < 0 < row["high"] for row in mine)
        lines.append("{:>8}{:>10.4f}{:>14.4f}{:>10.4f}{:>10.4f}{:>12}".format(count, *means, f"{held} of {len(mine)}"))
    return "\n".join(lines)


def _row(seed: int, count: int, a: Tensor, b: Tensor) -> dict[str, Any]:
    line = frechet_infinity(a[:count], b[:count])
    values = {"plain": line.distances[0], "value": line.value, "low": line.low, "high": line.high}
    return {"seed": seed, "count": count, **values}
