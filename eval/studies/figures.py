"""Figures of the controlled studies: lines with bands of one standard deviation over seeds, written as PNG."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..report.figures import GRID_COLOR, PALETTE, UNUSED_COLOR

SCORES = {"quantization_error": "quantization error E", "utilization": "utilization U", "perplexity": "perplexity C"}
_COSTS = {"seconds": ("seconds a step", 1e-6), "peak_mib": ("MiB, at least 1", 1.0)}  # the least a log axis shows
_COLORS = (*PALETTE, UNUSED_COLOR)
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")


def training_figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """E, U and C at the last step against the shift, above the same at the largest shift against the step."""
    last, largest = max(row["step"] for row in rows), max(row["shift"] for row in rows)
    at_end = [row for row in rows if row["step"] == last]
    far = [row for row in rows if row["shift"] == largest]
    panels = [
        (at_end, "shift", f"shift of the features (after {last:,} steps)"),
        (far, "step", f"step (at shift {largest:g})"),
    ]
    _draw(panels, "method", ("quantization_error", "perplexity"), path)


def mismatch_figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """E, U and C against the value that is varied, one row of panels for each case."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    panels = [([row for row in rows if row["case"] == case], "value", _CASES[case]) for case in cases]
    _draw(panels, "case", ("quantization_error",), path, logarithmic_axis=cases == ["gaussian", "uniform"])


_CASES = {
    "centre of the codes": "centre of the codes (features: 1.4)",
    "radius of the codes": "radius of the codes (features: 1)",
    "gaussian": "standard deviation of both",
    "uniform": "half width of both",
}


def _draw(
    panels: Sequence[tuple[Sequence[dict[str, Any]], str, str]],
    series: str,
    logarithmic: Sequence[str],
    path: Path,
    logarithmic_axis: bool = False,
) -> None:
    """One row of panels for each (rows, name of the x value, its label), a line for each value of `series`."""
    figure = Figure(figsize=(11, 3.2 * len(panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 3, squeeze=False)
    names = list(dict.fromkeys(row[series] for rows, _, _ in panels for row in rows))
    for line, (rows, x, label) in zip(axes, panels, strict=True):
        for axis, (score, title) in zip(line, SCORES.items(), strict=True):
            for number, name in enumerate(names):
                _band(axis, [row for row in rows if row[series] == name], x, score, number, name)
            axis.set(xlabel=label, ylabel=title)
            if score in logarithmic:
                axis.set_yscale("log")
            if score == "utilization":
                axis.set_ylim(-0.03, 1.03)
            if logarithmic_axis:
                axis.set_xscale("log")
            axis.grid(color=GRID_COLOR)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if series == "method":
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _band(axis: Axes, rows: Sequence[dict[str, Any]], x: str, score: str, number: int, name: str) -> None:
    """Means over seeds, and where there are several a band of one standard deviation."""
    values: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        values[row[x]].append(row[score])
    if not values:
        return
    places = sorted(values)
    means = np.array([np.mean(values[place]) for place in places])
    style = {"color": _COLORS[number % len(_COLORS)], "marker": _MARKERS[number % len(_MARKERS)]}
    axis.plot(places, means, label=name, markersize=4, linewidth=1.4, color=style["color"], marker=style["marker"])
    if max(map(len, values.values())) > 1:
        spread = np.array([np.std(values[place], ddof=1) if len(values[place]) > 1 else 0.0 for place in places])
        axis.fill_between(places, means - spread, means + spread, color=style["color"], alpha=0.2, linewidth=0)


def cost_figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds and memory of a step against K, both logarithmic, a row of panels for each D."""
    dims = sorted({row["codebook_dim"] for row in rows})
    names = list(dict.fromkeys(row["contender"] for row in rows))
    figure = Figure(figsize=(9, 3.6 * len(dims)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(dims), 2, squeeze=False)
    for line, dim in zip(axes, dims, strict=True):
        for axis, (score, (title, least)) in zip(line, _COSTS.items(), strict=True):
            for number, name in enumerate(names):
                mine = [row for row in rows if (row["contender"], row["codebook_dim"]) == (name, dim)]
                places = [row["codebook_size"] for row in mine]
                color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
                style = {"color": color, "marker": marker, "linestyle": "-" if number < len(_COLORS) else "--"}
                values = [max(row[score], least) for row in mine]
                axis.plot(places, values, label=name, markersize=4, linewidth=1.4, **style)
                if score == "seconds":
                    lowest, highest = ([row[name] for row in mine] for name in ("fastest", "slowest"))
                    axis.fill_between(places, lowest, highest, color=color, alpha=0.15, linewidth=0)
            axis.set(xscale="log", yscale="log", xlabel="codebook size K", ylabel=f"{title} (D = {dim})")
            axis.grid(color=GRID_COLOR)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def sample_size_figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plain and extrapolated distances of one distribution's samples against their size, pairs at the middle one."""
    counts = sorted({row["count"] for row in rows})
    middle = counts[len(counts) // 2]
    figure = Figure(figsize=(11, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    by_count = [[row for row in rows if row["count"] == count] for count in counts]
    for name, label, number in (("plain", "Fréchet distance", 0), ("value", "extrapolated to endless images", 1)):
        means = [np.mean([row[name] for row in mine]) for mine in by_count]
        left.plot(counts, means, label=label, marker=_MARKERS[number], color=_COLORS[number])
    lowest, highest = ([np.mean([row[name] for row in mine]) for mine in by_count] for name in ("low", "high"))
    left.fill_between(counts, lowest, highest, color=_COLORS[1], alpha=0.25, linewidth=0, label="its 95 % interval")
    left.set(xscale="log", xlabel="images in each sample", ylabel="distance of two samples of one distribution")
    left.set_xticks(counts, [f"{count:,}" for count in counts])
    left.minorticks_off()
    left.set_title(f"mean over {len(by_count[0])} pairs of samples")
    at_middle = [row for row in rows if row["count"] == middle]
    pairs = range(1, len(at_middle) + 1)
    right.plot(pairs, [row["plain"] for row in at_middle], _MARKERS[0], color=_COLORS[0])
    values, low, high = (np.array([row[name] for row in at_middle]) for name in ("value", "low", "high"))
    right.errorbar(pairs, values, [values - low, high - values], fmt=_MARKERS[1], color=_COLORS[1], capsize=3)
    right.set(xlabel="pair", xticks=list(pairs))
    right.set_title(f"each pair, {middle:,} images in each sample")
    for axis in (left, right):
        axis.axhline(0, color="black", linewidth=1, linestyle="--", label="true distance")
        axis.grid(color=GRID_COLOR)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
