"""What a codebook of another distribution than the features costs, without any training (arXiv 2506.15078).

The prototypical study puts codes and features into disks that overlap less and less; the variance study gives both
one distribution at several scales, where the error must follow the variance and usage must not change.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer import CodebookUsage, nearest_codes
from wvq.tokenizer.storage.atomic import write_csv, write_json

from .figures import mismatch_figure


def prototypical_study(folder: Path, seeds: tuple[int, ...]) -> Path:
    """2-D, 10,000 features and 400 codes, uniform in disks: centres apart, or radii unlike; returns the figure."""
    rows = [row for seed in seeds for row in _prototypical_rows(torch.Generator().manual_seed(seed), seed)]
    return _write(folder, "prototypical", rows)


def variance_study(folder: Path, seeds: tuple[int, ...]) -> Path:
    """100,000 features and 8,192 codes in 8-D, both of N(0, scale^2 I) or of U(-scale, scale)^8; returns the figure."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            features, codes = (torch.randn(n, 8, generator=generator) * scale for n in (100_000, 8_192))
            rows.append({"case": "gaussian", "value": scale, "seed": seed, **_scores(features, codes)})
            features, codes = ((torch.rand(n, 8, generator=generator) * 2 - 1) * scale for n in (100_000, 8_192))
            rows.append({"case": "uniform", "value": scale, "seed": seed, **_scores(features, codes)})
    return _write(folder, "variance", rows)


def _prototypical_rows(generator: torch.Generator, seed: int) -> Iterator[dict[str, Any]]:
    """The features' centre is (1.4, 0) where centres differ; radii are 1 where they do not."""
    for centre in (-0.6, -0.3, 0.0, 0.35, 0.7, 1.05, 1.4):
        features, codes = _disk(10_000, 1.4, 1.0, generator), _disk(400, centre, 1.0, generator)
        yield {"case": "centre of the codes", "value": centre, "seed": seed, **_scores(features, codes)}
    for radius in (0.4, 0.6, 0.8, 1.0, 1.1, 1.3, 1.6):
        features, codes = _disk(10_000, 0.0, 1.0, generator), _disk(400, 0.0, radius, generator)
        yield {"case": "radius of the codes", "value": radius, "seed": seed, **_scores(features, codes)}


def _disk(count: int, centre: float, radius: float, generator: torch.Generator) -> Tensor:
    """Points (count, 2), uniform in a disk around (centre, 0)."""
    angle = torch.rand(count, generator=generator) * 2 * torch.pi
    distance = radius * torch.rand(count, generator=generator).sqrt()
    return torch.stack([centre + distance * angle.cos(), distance * angle.sin()], dim=1)


def _scores(features: Tensor, codes: Tensor) -> dict[str, float]:
    indices = nearest_codes(features, codes)
    usage = CodebookUsage(len(codes))
    usage.update(indices)
    counts = usage.compute()
    return {
        "quantization_error": (features - codes[indices]).double().square().sum(dim=1).mean().item(),
        "utilization": counts["utilization"].item(),
        "perplexity": counts["perplexity"].item(),
    }


def _write(folder: Path, study: str, rows: list[dict[str, Any]]) -> Path:
    write_csv(folder / f"{study}.csv", rows)
    write_json(folder / f"{study}.json", {"study": study, "rows": rows})
    mismatch_figure(rows, folder / f"{study}.png")
    return folder / f"{study}.png"
