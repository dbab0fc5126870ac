"""The columns of the comparison's table: their names, digits, and who is best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..score_names import score_label


@dataclass(frozen=True)
class Column:
    """One column of numbers, a value per row of its table; NaN stands for what was not measured."""

    name: str
    values: list[float]
    direction: int = 0  # 1: higher is better, -1: lower is better, 0: not ranked
    unit: str = ""
    note: str = ""
    fixed_decimals: int | None = None  # None: as many as give the smallest value four significant digits
    halves: list[float] = field(default_factory=list)  # half widths of intervals around the values, NaN for none
    details: list[str] = field(default_factory=list)  # a line below each value
    marked: tuple[int, ...] | None = None  # rows in bold; None for the leaders
    signed: bool = False  # whether positive values have a plus
    averaged: bool = False  # whether it stands among the means though it is not ranked

    @property
    def title(self) -> str:
        name = self.name.capitalize() if self.name.islower() else self.name
        return f"{name} ({self.unit})" if self.unit else name

    @property
    def in_means(self) -> bool:
        return bool(self.direction) or self.averaged

    @property
    def decimals(self) -> int:
        if self.fixed_decimals is not None:
            return self.fixed_decimals
        sizes = [abs(value) for value in self.values if math.isfinite(value) and value]
        return min(max(3 - math.floor(math.log10(min(sizes))), 0), 6) if sizes else 3

    def text(self, row: int) -> str:
        sign = "+" if self.signed else ""
        return "\N{EN DASH}" if math.isnan(self.values[row]) else f"{self.values[row]:{sign},.{self.decimals}f}"

    def half_text(self, row: int) -> str:
        """The half width of the interval, empty where there is none."""
        known = self.halves and not math.isnan(self.halves[row])
        return f"± {self.halves[row]:,.{self.decimals}f}" if known else ""

    def text_with_unit(self, row: int) -> str:
        return f"{self.text(row)} {self.unit}".rstrip()

    def measured(self) -> list[int]:
        return [row for row, value in enumerate(self.values) if not math.isnan(value)]

    def best_of(self, rows: Sequence[int]) -> int:
        return max(rows, key=lambda row: self.direction * self.values[row])

    def leaders(self) -> list[int]:
        """Rows that are best at the digits shown; none if the column is not ranked or holds fewer than two values."""
        rows = self.measured()
        if not self.direction or len(rows) < 2:
            return []
        best = self.best_of(rows)
        return [row for row in rows if self.text(row) == self.text(best)]

    def bold(self) -> Sequence[int]:
        return self.leaders() if self.marked is None else self.marked


def table_columns(rows: Sequence[dict]) -> list[Column]:
    """The columns of the comparison; Fréchet distances share one only if extractor and image counts are the same."""

    def column(name: str, key: str, direction: int = 0, factor: float = 1.0, **options: Any) -> Column:
        return Column(name, [factor * _number(row.get(key)) for row in rows], direction, **options)

    # the error itself is not ranked: its scale is that of the features, which every run learns for itself; nor are bits
    # of tokens, which are fewer the less the tokens say
    columns = [
        column("utilization", "utilization", 1, 100.0, unit="%", fixed_decimals=1),
        column("perplexity", "perplexity", 1),
        column("token entropy", "token_entropy", unit="bits/image", averaged=True),
        column("quantization error", "quantization_error"),
        column("relative quantization error", "relative_quantization_error", -1),
        column("PSNR", "psnr", 1, unit="dB", fixed_decimals=2),
        column("SSIM", "ssim", 1, fixed_decimals=4),
    ]
    for key in _DISTANCES:
        labels = [distance_label(row, key) if row.get(key) is not None else None for row in rows]
        for label in dict.fromkeys(label for label in labels if label is not None):
            values = [_number(row[key]) if own == label else math.nan for row, own in zip(rows, labels, strict=True)]
            columns.append(Column(label[0], values, -1, note=label[1]))
    columns.append(column("bits per token", "bits_per_token", note="held-out, by the prior", averaged=True))
    columns.append(column("bits per image", "bits_per_image", note="held-out, by the prior", averaged=True))
    for name in dict.fromkeys(name for row in rows for name in row.get("sampling", {})):
        chosen = [row.get("sampling", {}).get(name) for row in rows]
        if not any(isinstance(value, str) for value in chosen):
            note = "each run's own best, on training images"
            columns.append(Column(name.replace("_", " "), list(map(_number, chosen)), note=note, averaged=True))
    columns = [one for one in columns if one.measured() or not one.averaged]
    for stage in ("tokenizer", "prior"):
        seconds = [_number(row["seconds"].get(stage)) for row in rows]
        columns.append(Column(f"{stage} training", seconds, unit="s", fixed_decimals=0))
    return columns


_DISTANCES = {
    "reconstruction_frechet_distance": ("r", "{num_reference:,} images"),
    "perturbed_frechet_distance": ("p", "{num_perturbed:,} images"),
    "generation_frechet_distance": ("", "{num_generated:,} vs. {num_reference:,} images"),
}
"""What a Fréchet distance is called before "FID", and what is noted below."""


def distance_label(row: dict, key: str) -> tuple[str, str]:
    """Name and note of a Fréchet distance."""
    prefix, note = _DISTANCES[key]
    name = score_label(f"{prefix}FID", {"name": row["extractor"], "weights_sha256": row.get("weights_sha256")})
    return name, note.format_map(row)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
