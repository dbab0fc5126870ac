"""The plots of eval/results that stand beside tables: `python docs/plots.py` draws them from the results' JSON."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

RESULTS = Path(__file__).parents[1] / "eval" / "results"
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#555555"  # Okabe and Ito


def rows(name: str) -> list[dict[str, Any]]:
    """The runs of a comparison, in its order."""
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


def starts() -> Figure:
    """Utilization against PSNR, a point for each start of the codes."""
    figure, (axes,) = sheet(1)
    labels = {
        "normal": "N(0, 0.01²)",
        "data": "data",
        "data-100": "data, step 100",
        "data-100-weight-1": "data, step 100, weight 1",
        "kmeans-100": "k-means++, step 100",
        "revival-100": "data, step 100, revival",
    }
    shifts = {"vanilla-kmeans-100": -10, "wasserstein-normal": -10, "vanilla-revival-100": 16}  # or names cover another
    for row in rows("starts"):
        method, start = row["quantizer"].split("-", 1)
        color = BLUE if method == "wasserstein" else ORANGE
        axes.plot(row["utilization"], row["psnr"], "o", color=color)
        right = row["utilization"] > 0.6
        axes.annotate(
            labels[start], (row["utilization"], row["psnr"]), textcoords="offset points", color=GREY, fontsize=8,
            xytext=(-8 if right else 8, shifts.get(row["quantizer"], 2)),
            ha="right" if right else "left",
        )  # fmt: skip
    for label, color in (("transport", BLUE), ("vanilla", ORANGE)):
        axes.plot([], [], "o", color=color, label=label)
    finish(axes, "utilization", "PSNR, dB")
    axes.set_xlim(-0.03, 1.05)
    axes.set_ylim(22.2, 23.8)
    axes.legend(frameon=False, loc="lower right")
    return figure


def alignments() -> Figure:
    """PSNR and utilization against the number of codes, of the paper's loss and of transport."""
    figure, panels = sheet(2)
    for method, color in (("transport", BLUE), ("loss", ORANGE)):
        runs = [row for row in rows("alignments") if row["quantizer"] == method]
        codes = [row["setting"]["codebook_size"] for row in runs]
        for axes, score in zip(panels, ("psnr", "utilization"), strict=True):
            axes.plot(codes, [row[score] for row in runs], "o-", color=color, label=method)
            axes.set_xscale("log", base=2)
            axes.set_xticks(codes, [f"{count:,}" for count in codes])
            axes.minorticks_off()
    finish(panels[0], "codes", "PSNR, dB")
    finish(panels[1], "codes", "utilization")
    panels[1].set_ylim(0, 1.05)
    panels[0].legend(frameon=False)
    return figure


def codes() -> Figure:
    """PSNR, rFD and FD against the number of codes, of Wasserstein-VQ and of vanilla from its best start."""
    figure, panels = sheet(3)
    scores = (("psnr", "PSNR, dB"), ("reconstruction_frechet_distance", "rFD[efficientnet-lite0]"),
              ("generation_frechet_distance", "FD[efficientnet-lite0] of samples"))  # fmt: skip
    for method, name, color in (
        ("wasserstein", "Wasserstein-VQ", BLUE),
        ("vanilla-from-data", "vanilla, from data", ORANGE),
    ):
        runs = sorted(
            (row for row in rows("codes") if row["quantizer"] == method),
            key=lambda row: row["setting"]["codebook_size"],
        )
        sizes = [row["setting"]["codebook_size"] for row in runs]
        for axes, (score, _) in zip(panels, scores, strict=True):
            axes.plot(sizes, [row[score] for row in runs], "o-", color=color, label=name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
    for axes, (score, label) in zip(panels, scores, strict=True):
        finish(axes, "codes", label)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=score != "psnr"))
    panels[0].legend(frameon=False, loc="lower right")
    return figure


def entropy() -> Figure:
    """PSNR and rFD against the entropy of a token, of photographs, and PSNR of clothes."""
    figure, panels = sheet(3)
    demos = ("demo", "demo-seed-0", "demo-seed-1", "demo-seed-2", "demo-revived")
    photographs = [row for name in demos for row in rows(name)]
    photographs += [row for row in rows("late-start") if row["optimizer"] == "muon"]
    scores = (("psnr", photographs), ("reconstruction_frechet_distance", photographs), ("psnr", rows("starts")))
    for axes, (score, runs) in zip(panels, scores, strict=True):
        for label, color in (("Wasserstein-VQ", BLUE), ("vanilla", ORANGE)):
            own = [row for row in runs if row["quantizer"].startswith("vanilla") == (label == "vanilla")]
            bits = [math.log2(row["perplexity"]) for row in own]
            axes.plot(bits, [row[score] for row in own], "o", color=color, alpha=0.7, label=label)
    finish(panels[0], "bits per token", "PSNR, dB")
    finish(panels[1], "bits per token", "rFD[efficientnet-lite0]")
    finish(panels[2], "bits per token", "PSNR, dB")
    for axes, name in zip(panels, ("CIFAR-10", "CIFAR-10", "clothes"), strict=True):
        axes.set_title(name, fontsize=10)
    panels[0].legend(frameon=False, loc="lower right")
    return figure


def quantizers() -> Figure:
    """Utilization, PSNR and rFD of every quantizer, a point for each of three seeds."""
    figure, panels = sheet(3, sharey=True)
    runs = rows("quantizers")
    names = list(dict.fromkeys(row["quantizer"] for row in runs))
    scores = (("utilization", "utilization"), ("psnr", "PSNR, dB"),
              ("reconstruction_frechet_distance", "rFD[efficientnet-lite0]"))  # fmt: skip
    for axes, (score, label) in zip(panels, scores, strict=True):
        axes.plot(
            [row[score] for row in runs], [names.index(row["quantizer"]) for row in runs], "o", color=BLUE, alpha=0.6
        )
        axes.set_yticks(range(len(names)), names)
        finish(axes, label, "")
    panels[0].invert_yaxis()
    return figure


def sheet(columns: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """An empty figure with so many panels."""
    figure = Figure(figsize=(9, 3.4 if columns > 1 else 4), layout="constrained")
    return figure, list(figure.subplots(1, columns, sharey=sharey, squeeze=False)[0])


def finish(axes: Axes, x: str, y: str) -> None:
    """Name the axes, and draw no more than is needed."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


PLOTS = {"codes": codes, "entropy": entropy, "starts": starts, "alignments": alignments, "quantizers": quantizers}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    for name, draw in PLOTS.items():
        draw().savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
