"""Ablations as plots: utilization, perplexity and Fréchet distances against a field, a line for each method."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from .columns import Column, table_columns
from .figures import BASELINE_DASHES, MARKERS, PALETTE, SEED_DASHES, LineStyle, Picture, embed, quiet_figure, thousands
from .groups import Group, group_label, group_rows

SHOWN_SCORES = ("utilization", "perplexity", "rF", "pF", "F")  # beginnings of the names of columns
LOGARITHMIC_ABOVE = 8  # largest over smallest value
MOST_TICKS = 6  # more values than these have no tick each


@dataclass(frozen=True)
class Point:
    """A method in a setting of a study: the `values` of the study's fields, and the whole `setting` as in the rows."""

    method: str
    values: dict[str, Any]
    setting: dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """A study: its name and its points."""

    name: str
    points: list[Point]

    @property
    def fields(self) -> list[str]:
        """The fields that take more than one value."""
        names = list(self.points[0].values)
        return [name for name in names if len({json.dumps(point.values[name]) for point in self.points}) > 1]


@dataclass(frozen=True)
class Block:
    """The plots of a study against one field, and what their lines are."""

    study: str
    field: str
    legend: list[tuple[str, LineStyle]]
    pictures: list[Picture]


def ablation_blocks(ablations: Sequence[Ablation], rows: Sequence[dict[str, Any]]) -> list[Block]:
    """A block for each study and each field that it varies, with a picture for each score."""
    columns = [column for column in table_columns(rows) if column.direction and column.name.startswith(SHOWN_SCORES)]
    groups = {group.label: group for group in group_rows(rows)}
    blocks = []
    for ablation in ablations:
        for field in ablation.fields:
            series = _series(ablation, field)
            styles = _styles(list(series))
            legend = [(_name(key), style) for key, style in zip(series, styles, strict=True)]
            pictures = [_picture(field, list(series.values()), styles, column, groups) for column in columns]
            blocks.append(Block(ablation.name, field, legend, pictures))
    return blocks


def _series(ablation: Ablation, field: str) -> dict[tuple[str, str, bool], list[Point]]:
    """The points of each line, by method, values of the study's other fields, and whether the method has the field."""
    series: dict[tuple[str, str, bool], list[Point]] = {}
    for point in ablation.points:
        others = {name: value for name, value in point.values.items() if name in ablation.fields and name != field}
        words = group_label("", {name: others[name] for name in others if point.setting[name] is not None})
        line = series.setdefault((point.method, words, point.setting[field] is not None), [])
        if all(point.values[field] != other.values[field] for other in line):
            line.append(point)
    return series


def _name(key: tuple[str, str, bool]) -> str:
    method, others, varied = key
    return f"{method}{others}" if varied else f"{method}{others} (has no such option)"


def _styles(keys: Sequence[tuple[str, str, bool]]) -> list[LineStyle]:
    """A colour and marker for each method, dashes for the values of other fields; apart, those without the field."""
    methods = list(dict.fromkeys(method for method, _, _ in keys))
    others = list(dict.fromkeys(words for _, words, _ in keys))
    styles = []
    for method, words, varied in keys:
        number = methods.index(method)
        dashes = SEED_DASHES[others.index(words) % len(SEED_DASHES)] if varied else BASELINE_DASHES
        marker = list(MARKERS)[number % len(MARKERS)]
        styles.append(LineStyle(PALETTE[number % len(PALETTE)], dashes, marker))
    return styles


def _picture(
    field: str, series: Sequence[list[Point]], styles: Sequence[LineStyle], column: Column, groups: dict[str, Group]
) -> Picture:
    """One score against the field: means over seeds with a band from the lowest to the highest."""
    figure, axes = quiet_figure(3.55, 3.0)
    places = _places(axes, [point.values[field] for point in series[0]])
    for line, style in zip(series, styles, strict=True):
        scores = {}
        for point in line:
            group = groups[group_label(point.method, point.setting)]
            scores[places[json.dumps(point.values[field])]] = [column.values[row] for row in group.rows.values()]
        xs = sorted(scores)
        means, lows, highs = ([measure(scores[x]) for x in xs] for measure in (np.mean, min, max))
        linestyle = (0, style.dashes) if style.dashes else "solid"
        axes.plot(xs, means, color=style.color, linestyle=linestyle, marker=style.marker, markersize=4, linewidth=1.5)
        axes.fill_between(xs, lows, highs, color=style.color, alpha=0.16, lw=0)
    axes.set_xlabel(field)
    axes.set_ylabel(column.title)
    if column.name == "utilization":
        axes.set_ylim(0, 103)
    elif column.name == "perplexity":
        axes.set_ylim(bottom=0)
    return embed(figure, f"{column.title} against {field}, a line per method.")


def _places(axes: Axes, values: Sequence[Any]) -> dict[str, float]:
    """Where the values lie on the x axis, by their JSON: numbers where they are, logarithmic if they span much, other
    values one beside the other."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = {json.dumps(value): float(value) if numbers else float(n) for n, value in enumerate(values)}
    if numbers and min(places.values()) > 0 and max(places.values()) >= LOGARITHMIC_ABOVE * min(places.values()):
        axes.set_xscale("log")
    if not numbers or len(values) <= MOST_TICKS:
        axes.set_xticks(list(places.values()), [_tick(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
    return places


def _tick(value: Any) -> str:
    return thousands(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
