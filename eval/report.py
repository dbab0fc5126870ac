"""One self-contained HTML page of a comparison: what was measured, how, and what it looks like.

Everything is computed from what is passed in; nothing is trained, loaded or fetched. The page needs no other file and
no network: styles and script are inline, pictures are embedded.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import torch

from wvq.tokenizer.usage import perplexity, utilization

from . import figures
from .figures import Curve, LineStyle, Picture
from .report_table import column_means, summary, table_columns

STRIP_WIDTH, HALF_STRIP_WIDTH = (
    1040,
    466,
)  # CSS pixels for a row of images beside its label, one or two such rows abreast
SCALES = (3, 2, 1, 1 / 2, 1 / 4)
DRAWN_CODES = 4096  # more would hide the features
BITS_PER_NAT = 1 / log(2)


@dataclass
class RunReport:
    """What the report shows of one row of the comparison.

    `tokenizer_metrics` and `prior_metrics` are the rows of the runs' metrics.jsonl (either may be empty),
    `code_histogram` (K,) counts the codes over the whole evaluation set, `features` (M, D) is a sample of the features
    of evaluation images before quantization, `codes` (K, D) the codebook, `originals` and `reconstructions` are uint8
    (n, C, H, W), `samples` uint8 (classes, per class, C, H, W) or None where no prior was trained.
    """

    quantizer: str
    seed: int
    tokenizer_metrics: list[dict]
    prior_metrics: list[dict]
    code_histogram: np.ndarray
    features: np.ndarray
    codes: np.ndarray
    originals: np.ndarray
    reconstructions: np.ndarray
    samples: np.ndarray | None
    class_names: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.quantizer}, seed\N{NO-BREAK SPACE}{self.seed}"


@dataclass(frozen=True)
class Panel:
    """A picture with its title, which stands in the page."""

    title: str
    detail: str
    picture: Picture


def write_report(path: Path, comparison: dict, runs: list[RunReport], commands: list[str]) -> None:
    """Write the page; `path` appears only when it is complete.

    `comparison` is the content of comparison.json ("protocol" and "rows"), `runs` (at least one) are what to show of
    the same rows, `commands` the shell commands that reproduce the numbers, in order.
    """
    rows = comparison["rows"]
    columns = table_columns(rows)
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row["quantizer"], []).append(index)
    means = [column_means(column, list(groups.values())) for column in columns]
    styles = figures.line_styles([(run.quantizer, run.seed) for run in runs])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title="Comparison of quantizers" if len(groups) > 1 else "Report on a quantizer",
        summary=summary(groups, means),
        rows=rows,
        columns=columns,
        groups=groups,
        means=means if len(rows) > len(groups) else [],
        legend=list(zip([run.label for run in runs], styles, strict=True)),
        tokenizer_panels=_tokenizer_panels(runs, styles),
        prior_panels=_prior_panels(runs, styles),
        usage_panels=_usage_panels(runs, styles),
        projection_panels=_projection_panels(runs),
        reconstruction_blocks=_reconstruction_blocks(runs),
        sample_grids=_sample_grids(runs),
        protocol=list(flatten(comparison["protocol"])),
        commands=commands,
        style=figures,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested dictionaries (and lists of them) as (dotted name, text) pairs, in order."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tokenizer_panels(runs: list[RunReport], styles: list[LineStyle]) -> list[Panel]:
    def curves(key: str, factor: float = 1.0) -> list[Curve]:
        return _curves(runs, styles, "tokenizer", key, "evaluation", factor)

    loss = _curves(runs, styles, "tokenizer", "reconstruction_loss", "training") + curves("reconstruction_loss")
    specifications: list[tuple[str, list[Curve], str, dict[str, Any]]] = [
        ("Reconstruction loss", loss, "mean squared error", {"logarithmic": True}),
        ("PSNR", curves("psnr"), "PSNR (dB)", {}),
        ("Utilization", curves("utilization", 100.0), "codes in use (%)", {"limits": (0, 103)}),
        ("Perplexity", curves("perplexity"), "perplexity (codes)", {"limits": (0, None)}),
    ]
    panels = []
    for title, lines, ylabel, options in specifications:
        if lines:
            alt = f"{title} of the tokenizer against training step, a line per run."
            panels.append(Panel(title, "", figures.curve_panel(lines, ylabel, alt, **options)))
    return panels


def _prior_panels(runs: list[RunReport], styles: list[LineStyle]) -> list[Panel]:
    lines = [
        *_curves(runs, styles, "prior", "loss", "training", BITS_PER_NAT),
        *_curves(runs, styles, "prior", "unigram_bits_per_token", "baseline"),
        *_curves(runs, styles, "prior", "bits_per_token", "evaluation"),
    ]
    alt = "Bits per token of the prior against training step, a line per run with its unigram baseline."
    return [Panel("Bits per token", "", figures.curve_panel(lines, "bits per token", alt, width=10.8))] if lines else []


def _curves(
    runs: list[RunReport],
    styles: list[LineStyle],
    stage: Literal["tokenizer", "prior"],
    key: str,
    role: Literal["evaluation", "training", "baseline"],
    factor: float = 1.0,
) -> list[Curve]:
    """The lines of one metric, times `factor`, over all runs that recorded it."""
    split = "train" if role == "training" else "evaluation"
    curves = []
    for run, style in zip(runs, styles, strict=True):
        rows = run.tokenizer_metrics if stage == "tokenizer" else run.prior_metrics
        points = [(row["step"], factor * row[key]) for row in rows if row["split"] == split and key in row]
        if points:
            curves.append(Curve(points, style, role))
    return curves


def _usage_panels(runs: list[RunReport], styles: list[LineStyle]) -> list[Panel]:
    top = max(int(run.code_histogram.max()) for run in runs)
    panels = []
    for run, style in zip(runs, styles, strict=True):
        histogram = torch.from_numpy(run.code_histogram)
        detail = f"utilization {utilization(histogram):.1%}, perplexity {perplexity(histogram):,.1f}"
        alt = f"{run.label}: counts of the {len(histogram):,} codes in descending order; {detail}."
        panels.append(Panel(run.label, detail, figures.usage_panel(run.code_histogram, top, style.color, alt)))
    return panels


def _projection_panels(runs: list[RunReport]) -> list[Panel]:
    panels = []
    for run in runs:
        used = run.code_histogram > 0
        step = ceil(len(run.codes) / DRAWN_CODES)
        detail = f"{len(run.features):,} features, {used.sum():,} codes in use, {(~used).sum():,} unused"
        detail += f", 1 code in {step} drawn" if step > 1 else ""
        alt = f"{run.label}: {detail}, projected onto the first two principal components of the features."
        picture = figures.projection_panel(run.features, run.codes[::step], used[::step], alt)
        panels.append(Panel(run.label, detail, picture))
    return panels


def _reconstruction_blocks(runs: list[RunReport]) -> list[list[tuple[str, Picture]]]:
    """Blocks of labelled rows, each as wide as the page; originals come again only before a run that has others."""
    count = len(runs[0].originals)
    scale, columns = _fit(runs[0].originals.shape[-1], count, STRIP_WIDTH)
    blocks = []
    for start in range(0, count, columns):
        part = slice(start, start + columns)
        block, shown = [], np.empty(0, np.uint8)
        for run in runs:
            if not np.array_equal(run.originals, shown):
                shown = run.originals
                block.append(("original", figures.image_strip(shown[part], columns, scale, "Original images.")))
            alt = f"Reconstructions by {run.label}."
            block.append((run.label, figures.image_strip(run.reconstructions[part], columns, scale, alt)))
        blocks.append(block)
    return blocks


def _sample_grids(runs: list[RunReport]) -> list[tuple[str, list[tuple[str, Picture]]]]:
    """The runs that have samples, each with a row per class: its name and its images."""
    shown = [(run, run.samples) for run in runs if run.samples is not None]
    limit = STRIP_WIDTH if len(shown) == 1 else HALF_STRIP_WIDTH
    grids = []
    for run, samples in shown:
        scale, columns = _fit(samples.shape[-1], samples.shape[1], limit)
        names = run.class_names or ("all images",)
        rows = []
        for name, images in zip(names, samples, strict=True):
            rows.append((name, figures.image_strip(images, columns, scale, f"Samples of {run.label}: {name}.")))
        grids.append((run.label, rows))
    return grids


def _fit(width: int, count: int, limit: int) -> tuple[float, int]:
    """Scale and columns for `count` images: the largest scale at which they fit `limit` CSS pixels in one row.

    No image is shown narrower than 56 CSS pixels; where that asks for more than one row, the rows are equal.
    """
    legible = [scale for scale in SCALES if width * scale >= 56] or [SCALES[0]]
    scale = next((scale for scale in legible if count * (width * scale + figures.GAP) <= limit), legible[-1])
    fitting = max(1, int(limit // (width * scale + figures.GAP)))
    return scale, ceil(count / ceil(count / fitting))
