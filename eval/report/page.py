"""One self-contained HTML page of a comparison: what was measured, how, and what it looks like.

Everything is computed from what is passed in; nothing is trained, loaded or fetched. The page needs no other file and
no network: styles and script are inline, pictures are embedded.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch

from wvq.tokenizer.metrics import perplexity, utilization
from wvq.tokenizer.storage.atomic import write_file

from . import figures
from .ablation import Ablation, ablation_blocks
from .columns import distance_label, table_columns
from .figures import Curve, LineStyle, Picture
from .groups import difference_columns, group_rows, mean_columns, rank_columns
from .images import reconstruction_blocks, sample_grids
from .pairs import beaten_columns
from .run_report import RunReport
from .words import power_of_seeds, summary

MANY_RUNS = 8  # of more, only those of the first seed are pictured
DRAWN_CODES = 4096  # more would hide the features
BITS_PER_NAT = 1 / log(2)


@dataclass(frozen=True)
class Panel:
    """A picture with its title, which stands in the page."""

    title: str
    detail: str
    picture: Picture


def write_report(
    path: Path,
    comparison: dict[str, Any],
    runs: Sequence[RunReport],
    commands: Sequence[str],
    ablations: Sequence[Ablation] = (),
) -> None:
    """Write the page; `path` appears only when it is complete.

    `comparison` is the content of comparison.json ("protocol", "baseline" and "rows"), `runs` (at least one) are what
    to show of the same rows, `commands` the shell commands that reproduce the numbers, in order, `ablations` the
    studies to plot.
    """
    rows, baseline = comparison["rows"], comparison["baseline"]
    columns, groups = table_columns(rows), group_rows(rows)
    several = len(rows) > len(groups)
    shown = [run for run in runs if len(runs) <= MANY_RUNS or run.seed == runs[0].seed]
    styles = figures.line_styles([(run.group, run.seed) for run in shown])
    page = _template().render(
        title="Comparison of quantizers" if len(groups) > 1 else "Report on a quantizer",
        summary=summary(groups, columns),
        rows=rows,
        columns=columns,
        groups=groups,
        baseline=baseline,
        power=power_of_seeds(groups),
        means=mean_columns([column for column in columns if column.in_means], groups) if several else [],
        ranks=rank_columns(columns, groups) if several else [],
        differences=difference_columns(columns, groups, baseline) if several else [],
        beaten=beaten_columns(columns, groups) if several and len({group.method for group in groups}) > 2 else [],
        ablation_blocks=ablation_blocks(ablations, rows),
        many_runs=MANY_RUNS,
        shown_seed=shown[0].seed if len(shown) < len(runs) else None,
        legend=list(zip([run.label for run in shown], styles, strict=True)),
        tokenizer_panels=_tokenizer_panels(shown, styles),
        prior_panels=_prior_panels(shown, styles),
        usage_panels=_usage_panels(shown, styles),
        projection_panels=_projection_panels(shown),
        reconstruction_blocks=reconstruction_blocks(shown),
        sample_grids=sample_grids(shown),
        grid=comparison.get("grid", []),
        reconstruction_label=distance_label(rows[0], "reconstruction_frechet_distance")[0],
        protocol=list(flatten(comparison["protocol"])),
        commands=commands,
        style=figures,
    )
    write_file(path, page.encode())


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested dictionaries (and lists of them) as (dotted name, text) pairs, in order."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tokenizer_panels(runs: Sequence[RunReport], styles: Sequence[LineStyle]) -> list[Panel]:
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


def _prior_panels(runs: Sequence[RunReport], styles: Sequence[LineStyle]) -> list[Panel]:
    lines = [
        *_curves(runs, styles, "prior", "loss", "training", BITS_PER_NAT),
        *_curves(runs, styles, "prior", "bigram_bits_per_token", "baseline"),
        *_curves(runs, styles, "prior", "bits_per_token", "evaluation"),
    ]
    alt = "Bits per token of the prior against training step, a line per run with its bigram baseline."
    return [Panel("Bits per token", "", figures.curve_panel(lines, "bits per token", alt, width=10.8))] if lines else []


def _curves(
    runs: Sequence[RunReport],
    styles: Sequence[LineStyle],
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


def _usage_panels(runs: Sequence[RunReport], styles: Sequence[LineStyle]) -> list[Panel]:
    top = max(int(run.code_histogram.max()) for run in runs)
    panels = []
    for run, style in zip(runs, styles, strict=True):
        histogram = torch.from_numpy(run.code_histogram)
        detail = f"utilization {utilization(histogram):.1%}, perplexity {perplexity(histogram):,.1f}"
        alt = f"{run.label}: counts of the {len(histogram):,} codes in descending order; {detail}."
        panels.append(Panel(run.label, detail, figures.usage_panel(run.code_histogram, top, style.color, alt)))
    return panels


def _projection_panels(runs: Sequence[RunReport]) -> list[Panel]:
    panels = []
    for run in runs:
        if run.codes is None:
            continue
        used = run.code_histogram > 0
        step = ceil(len(run.codes) / DRAWN_CODES)
        detail = f"{len(run.features):,} features, {used.sum():,} codes in use, {(~used).sum():,} unused"
        detail += f", 1 code in {step} drawn" if step > 1 else ""
        alt = f"{run.label}: {detail}, projected onto the first two principal components of the features."
        picture = figures.projection_panel(run.features, run.codes[::step], used[::step], alt)
        panels.append(Panel(run.label, detail, picture))
    return panels
