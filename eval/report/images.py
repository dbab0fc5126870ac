"""Images in the report: originals beside reconstructions, samples beside samples, as rows of equal images."""

from collections.abc import Sequence
from math import ceil

import numpy as np

from . import figures
from .figures import Picture
from .run_report import RunReport

# CSS pixels for a row of images beside its label, one or two such rows abreast
STRIP_WIDTH, HALF_STRIP_WIDTH = 1040, 466
SCALES = (3, 2, 1, 1 / 2, 1 / 4)


def reconstruction_blocks(runs: Sequence[RunReport]) -> list[list[tuple[str, Picture]]]:
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


def sample_grids(runs: Sequence[RunReport]) -> list[tuple[str, list[tuple[str, Picture]]]]:
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
