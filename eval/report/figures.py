"""The figures of the report: arrays in, embedded PNG pictures out.

No text that comes from a user is drawn into a picture (names of runs and classes stand in the page beside it), so no
name can break a figure, and a screen reader meets it. Colours: Okabe and Ito, "Color Universal Design" (2008).
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from wvq.tokenizer.image_grid import image_grid

# Okabe-Ito without yellow, too light on white, and without vermillion, kept for unused codes; and a brown
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#8A5A2B")
UNUSED_COLOR = "#D55E00"
UNUSED_TEXT_COLOR = "#9c4300"  # the same, dark enough to read
USED_COLOR = "#1b1b1b"
FEATURE_COLOR = "#a3bad0"
GUIDE_COLOR = "#555555"
SEED_DASHES = ((), (1.0, 1.4), (6.0, 1.6, 1.0, 1.6), (6.0, 1.4, 1.0, 1.4, 1.0, 1.4), (14.0, 2.0))
BASELINE_DASHES = (3.5, 2.2)  # not among the seeds' styles
MARKERS = {  # marker of matplotlib: the same as an SVG path in a box of 38 by 10
    "o": "M16 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "^": "M15.5 8L19 2L22.5 8Z",
    "s": "M16 2h6v6h-6Z",
}
SCREEN_DPI = 100  # one inch of a figure is 100 CSS pixels
FONT_SIZE, GRID_COLOR, SPINE_COLOR = 9.0, "#e4e4e4", "#8a8a8a"
GAP = 2  # CSS pixels around the images of a strip


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page: `source` is a data URI, width and height are in CSS pixels."""

    source: str
    width: int
    height: int
    alt: str
    pixelated: bool = False  # whether a browser that enlarges it further should keep its pixels square
    count: int = 1  # images in raster order in rows of `columns`, GAP pixels around each
    columns: int = 1


@dataclass(frozen=True)
class LineStyle:
    """How a run is drawn everywhere: colour and marker say the quantizer, dashes say the seed."""

    color: str
    dashes: tuple[float, ...]
    marker: str


@dataclass(frozen=True)
class Curve:
    """One line of a panel: (step, value) pairs in order."""

    points: list[tuple[int, float]]
    style: LineStyle
    role: Literal["evaluation", "training", "baseline"] = "evaluation"


def line_styles(runs: Sequence[tuple[str, int]]) -> list[LineStyle]:
    """Styles of runs given as (quantizer, seed): quantizers in order of appearance, seeds in order of value."""
    quantizers = list(dict.fromkeys(quantizer for quantizer, _ in runs))
    seeds = sorted({seed for _, seed in runs})

    def style(quantizer: str, seed: int) -> LineStyle:
        index = quantizers.index(quantizer)
        marker = list(MARKERS)[index // len(PALETTE) % len(MARKERS)]
        return LineStyle(PALETTE[index % len(PALETTE)], SEED_DASHES[seeds.index(seed) % len(SEED_DASHES)], marker)

    return [style(quantizer, seed) for quantizer, seed in runs]


def curve_panel(
    curves: Sequence[Curve],
    ylabel: str,
    alt: str,
    *,
    logarithmic: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
    width: float = 5.3,
) -> Picture:
    """Lines against the training step; training values are drawn thin and light, baselines thin and dashed."""
    figure, axes = quiet_figure(width, 3.2)
    for curve in curves:
        steps, values = zip(*curve.points, strict=True)
        style = curve.style
        if curve.role == "training":
            axes.plot(steps, values, color=style.color, linewidth=0.8, alpha=0.28, zorder=1)
        elif curve.role == "baseline":
            axes.plot(steps, values, color=style.color, linewidth=1.1, linestyle=(0, BASELINE_DASHES), zorder=2)
        else:
            linestyle = (0, style.dashes) if style.dashes else "solid"
            axes.plot(steps, values, color=style.color, linewidth=1.6, linestyle=linestyle, zorder=3)
            axes.plot(steps, values, color=style.color, linestyle="none", marker=style.marker, markersize=3.2, zorder=3)
    if logarithmic:
        _logarithmic(axes)
    else:
        axes.set_ylim(*limits)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_xlabel("training step")
    axes.set_ylabel(ylabel)
    return embed(figure, alt)


def usage_panel(histogram: np.ndarray, top: float, color: str, alt: str) -> Picture:
    """Counts (K,) of the codes in descending order, from zero upwards on a logarithmic axis that ends at `top`."""
    counts = np.sort(histogram)[::-1]
    uniform = counts.sum() / len(counts)
    used = int(np.count_nonzero(counts))
    figure, axes = quiet_figure(5.3, 3.0)
    axes.set_yscale("symlog", linthresh=1)  # linear from 0 to 1, so that a count of zero has a place
    edges, heights = np.arange(len(counts) + 1), np.append(counts, counts[-1])
    axes.fill_between(edges, heights, step="post", color=color, alpha=0.85, linewidth=0)
    axes.axhline(uniform, color=GUIDE_COLOR, linewidth=1.1, linestyle=(0, BASELINE_DASHES))
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.0}
    label: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": FONT_SIZE, "bbox": box}
    above = label | {"xytext": (-4, 3), "va": "bottom", "color": "#333333"}
    axes.annotate(f"uniform: {_number(uniform)}", (len(counts), uniform), **above)
    if used < len(counts):
        axes.axvspan(used, len(counts), color=UNUSED_COLOR, alpha=0.16, linewidth=0)
        axes.axvline(used, color=UNUSED_COLOR, linewidth=1)
        corner = label | {"xytext": (-4, -4), "va": "top", "color": UNUSED_TEXT_COLOR, "xycoords": "axes fraction"}
        axes.annotate(f"unused: {len(counts) - used:,}", (1, 1), **corner)
    axes.set_xlim(0, len(counts))
    axes.set_ylim(0, 3 * max(top, 1))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_xlabel("codes, most used first")
    axes.set_ylabel("count (log scale above 1)")
    return embed(figure, alt)


def projection_panel(features: np.ndarray, codes: np.ndarray, used: np.ndarray, alt: str) -> Picture:
    """Features (M, D) and codes (K, D) on the first two principal components of the features; `used` is bool (K,)."""
    points, atoms, share = principal_plane(features, codes)
    figure, axes = quiet_figure(3.5, 3.2)
    _dots(axes, points, FEATURE_COLOR, 1, total=9000)
    _dots(axes, atoms[used], USED_COLOR, 2)
    _dots(axes, atoms[~used], UNUSED_COLOR, 3)  # on top: unused codes often lie on one spot among the others
    everything = np.concatenate([points, atoms])
    low, high = everything.min(axis=0), everything.max(axis=0)
    half = 0.54 * float((high - low).max()) or 1.0
    axes.set_box_aspect(1)
    axes.set_xlim((low[0] + high[0]) / 2 - half, (low[0] + high[0]) / 2 + half)
    axes.set_ylim((low[1] + high[1]) / 2 - half, (low[1] + high[1]) / 2 + half)
    for axis, fraction, name in ((axes.xaxis, share[0], "first"), (axes.yaxis, share[1], "second")):
        axis.set_major_locator(MaxNLocator(nbins=5))
        axis.set_label_text(f"{name} component ({fraction:.0%} of variance)")
    return embed(figure, alt)


def principal_plane(features: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates (M, 2) and (K, 2) in the plane of the features' two largest variances, and the two shares (2,)."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(features))
    plane, share = np.zeros((features.shape[1], 2)), np.zeros(2)  # one-dimensional codes leave the second axis empty
    found = min(2, features.shape[1])
    plane[:, :found] = vectors[:, ::-1][:, :found]
    if variances.sum() > 0:
        share[:found] = variances[::-1][:found] / variances.sum()
    return centred @ plane, (codes.astype(np.float64) - mean) @ plane, share


def image_strip(images: np.ndarray, columns: int, scale: float, alt: str) -> Picture:
    """Images, uint8 (n, C, H, W) with C of 1 or 3, in rows of `columns`, every pixel `scale` CSS pixels wide.

    A whole scale enlarges the pixels themselves; below 1 the picture keeps them all and is shown smaller.
    """
    enlarged = max(1, int(scale))
    columns = min(columns, len(images))
    sheet = image_grid(torch.from_numpy(images), columns, padding=GAP, scale=enlarged)
    buffer = io.BytesIO()
    sheet.save(buffer, "png", optimize=True)
    shown = min(1.0, scale)
    width, height = round(sheet.width * shown), round(sheet.height * shown)
    return Picture(_data_uri(buffer), width, height, alt, pixelated=scale >= 1, count=len(images), columns=columns)


def _dots(axes: Axes, points: np.ndarray, color: str, layer: int, total: float = 4000) -> None:
    """Dots that share an area of about `total` square points: the more there are, the smaller."""
    size = float(np.clip(total / max(len(points), 1), 1, 6))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=color, linewidths=0, zorder=layer)


def quiet_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own (nothing global), in inches, with one pair of quiet axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SPINE_COLOR)
    axes.tick_params(which="both", color=SPINE_COLOR, labelsize=FONT_SIZE)
    axes.xaxis.label.set_fontsize(FONT_SIZE + 0.5)
    axes.yaxis.label.set_fontsize(FONT_SIZE + 0.5)
    axes.grid(color=GRID_COLOR, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(FuncFormatter(thousands))
    wide = high / low > 1000  # decades alone are enough labels
    axes.yaxis.set_minor_formatter(NullFormatter() if wide else FuncFormatter(_minor_label))


def _minor_label(value: float, _position: int | None = None) -> str:
    """Label 2 and 5 between the decades, nothing else: more would touch."""
    leading = round(value / 10 ** math.floor(math.log10(value)))
    return thousands(value) if leading in (2, 5) else ""


def thousands(value: float, _position: int | None = None) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def embed(figure: Figure, alt: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * SCREEN_DPI, metadata={"Software": None})
    width, height = figure.get_size_inches()
    return Picture(_data_uri(buffer), round(width * SCREEN_DPI), round(height * SCREEN_DPI), alt)


def _data_uri(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
