"""The comparison in numbers and in words: columns, means over seeds, and a paragraph that says who is ahead in what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Column:
    """One column of numbers, a value per row of its table; NaN stands for what was not measured."""

    name: str
    values: list[float]
    direction: int = 0  # 1: higher is better, -1: lower is better, 0: not ranked
    unit: str = ""
    note: str = ""
    fixed_decimals: int | None = None  # None: as many as give the smallest value four significant digits
    spreads: list[float] = field(default_factory=list)  # standard deviations, where the values are means

    @property
    def title(self) -> str:
        name = self.name.capitalize() if self.name.islower() else self.name
        return f"{name} ({self.unit})" if self.unit else name

    @property
    def decimals(self) -> int:
        if self.fixed_decimals is not None:
            return self.fixed_decimals
        sizes = [abs(value) for value in self.values if math.isfinite(value) and value]
        return min(max(3 - math.floor(math.log10(min(sizes))), 0), 6) if sizes else 3

    def text(self, row: int) -> str:
        return "\N{EN DASH}" if math.isnan(self.values[row]) else f"{self.values[row]:,.{self.decimals}f}"

    def spread_text(self, row: int) -> str:
        known = self.spreads and not math.isnan(self.spreads[row])
        return f"± {self.spreads[row]:,.{self.decimals}f}" if known else ""

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


def table_columns(rows: Sequence[dict]) -> list[Column]:
    """The columns of the comparison; Fréchet distances share one only if extractor and image counts are the same."""

    def column(name: str, key: str, direction: int = 0, factor: float = 1.0, **options: Any) -> Column:
        return Column(name, [factor * _number(row[key]) for row in rows], direction, **options)

    # the error itself is not ranked: its scale is that of the features, which every run learns for itself
    columns = [
        column("utilization", "utilization", 1, 100.0, unit="%", fixed_decimals=1),
        column("perplexity", "perplexity", 1),
        column("quantization error", "quantization_error"),
        column("relative quantization error", "relative_quantization_error", -1),
        column("PSNR", "psnr", 1, unit="dB", fixed_decimals=2),
        column("SSIM", "ssim", 1, fixed_decimals=4),
    ]
    for key, prefix in (("reconstruction_frechet_distance", "r"), ("generation_frechet_distance", "")):
        labels = [_distance_label(row, prefix) if row[key] is not None else None for row in rows]
        for label in dict.fromkeys(label for label in labels if label is not None):
            values = [_number(row[key]) if own == label else math.nan for row, own in zip(rows, labels, strict=True)]
            columns.append(Column(label[0], values, -1, note=label[1]))
    for stage in ("tokenizer", "prior"):
        seconds = [_number(row["seconds"].get(stage)) for row in rows]
        columns.append(Column(f"{stage} training", seconds, unit="s", fixed_decimals=0))
    return columns


def column_means(column: Column, groups: Sequence[Sequence[int]]) -> Column:
    """The column averaged over each group of rows, with sample standard deviations (NaN below two values)."""
    means, spreads = [], []
    for group in groups:
        values = np.array([column.values[row] for row in group if not math.isnan(column.values[row])])
        means.append(float(values.mean()) if len(values) else math.nan)
        spreads.append(float(values.std(ddof=1)) if len(values) > 1 else math.nan)
    return replace(column, values=means, spreads=spreads)


def summary(groups: dict[str, list[int]], means: Sequence[Column]) -> str:
    """Who is ahead in what, in words; ties at the digits shown and leads within the spread over seeds are said as such.

    `groups` are the rows of each quantizer, `means` the columns averaged over them by `column_means`.
    """
    names, counts = list(groups), [len(rows) for rows in groups.values()]
    parts = [f"{name} with {count} seed{'s' * (count > 1)}" for name, count in zip(names, counts, strict=True)]
    sentences = [f"{sum(counts)} run{'s' * (sum(counts) > 1)}: {_listing(parts)}."]
    if max(counts) > 1:
        sentences.append("The numbers in this paragraph are means over seeds.")
    ranked = [column for column in means if column.direction and column.measured()]
    if len(names) == 1:
        scores = _listing([f"{column.name} {column.text_with_unit(0)}" for column in ranked])
        return " ".join(
            [*sentences, f"{scores[0].upper()}{scores[1:]}.", "There is no other quantizer to compare with."]
        )

    ahead: dict[str, list[str]] = {}
    level: list[str] = []
    narrow: list[str] = []
    for column in ranked:
        leaders = column.leaders()
        others = [row for row in column.measured() if row not in leaders]
        if leaders and not others:
            level.append(f"{column.name} ({column.text_with_unit(leaders[0])})")
        elif leaders:
            first, second = leaders[0], column.best_of(others)
            subject = _listing([names[row] for row in leaders])
            subject += " is ahead" if len(leaders) == 1 else " are level with each other and ahead of the rest"
            numbers = f"{column.text_with_unit(first)} against {column.text_with_unit(second)} for {names[second]}"
            ahead.setdefault(subject, []).append(f"{column.name} ({numbers})")
            spreads = [column.spreads[row] for row in (first, second) if not math.isnan(column.spreads[row])]
            if spreads and abs(column.values[first] - column.values[second]) <= max(spreads):
                narrow.append(column.name)
    sentences += [f"{subject} in {_listing(scores)}." for subject, scores in ahead.items()]
    if level:
        sentences.append(f"At the digits shown, those measured are level in {_listing(level)}.")
    if narrow:
        sentences.append(f"In {_listing(narrow)} the lead is within one standard deviation over seeds.")
    if min(counts) == 1:
        sentences.append("Where there is one seed, how much a number varies between seeds is not known.")
    return " ".join(sentences)


def _distance_label(row: dict, prefix: str) -> tuple[str, str]:
    """Name and note of a Fréchet distance; the word FID is for Inception-v3 features alone."""
    name = f"{prefix}{'FID' if row['extractor'] == 'inception' else 'FD'} [{row['extractor']}]"
    generated = "" if prefix else f"{row['num_generated']:,} vs. "
    return name, f"{generated}{row['num_reference']:,} images"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _listing(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
