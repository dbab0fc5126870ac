"""The controlled studies against the paper's figures, at sizes that take seconds."""

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from wvq.eval.studies.atomic import METHODS, Atomic, atomic, build, codebook_scores, draw_features
from wvq.eval.studies.mismatch import prototypical_study, variance_study
from wvq.tokenizer import InputError

SMALL = Atomic(
    methods=("vanilla", "ema", "wasserstein", "transport"),
    shifts=(0, 4),
    codebook_size=256,
    num_features=2048,
    num_evaluation=8192,
    steps=100,
    evaluate_every=50,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atomic")
    atomic(dataclasses.replace(SMALL, output_dir=str(folder)))
    return folder


def rows(folder: Path, **chosen: object) -> list[dict[str, Any]]:
    everything = json.loads((folder / "atomic.json").read_text())["rows"]
    return [row for row in everything if all(row[key] == value for key, value in chosen.items())]


@pytest.mark.parametrize(
    ("shift", "error", "used", "perplexity"), [(0, 1.0530, 0.99615, 14714.3), (2, 10.7808, 0.0470, 47.9)]
)
def test_step_zero_of_the_paper(shift: float, error: float, used: float, perplexity: float):
    """K = 16,384, D = 8, 200,000 features: the released figures of step 0, to what a fresh draw leaves of them."""
    config = Atomic()
    generator = torch.Generator().manual_seed(12)
    quantizer, _ = build("vanilla", config)
    quantizer.weight.data.copy_(draw_features("gaussian", 16_384, 8, 0, generator))
    scores = codebook_scores(quantizer, draw_features("gaussian", 200_000, 8, shift, generator))
    if shift == 0:
        assert scores["quantization_error"] == pytest.approx(error, abs=2e-3)
        assert scores["utilization"] == pytest.approx(used, abs=2e-3)
        assert scores["perplexity"] == pytest.approx(perplexity, rel=2e-3)
    else:  # the few codes that reach out are another draw: the order of magnitude
        assert scores["quantization_error"] == pytest.approx(error, rel=0.05)
        assert scores["utilization"] == pytest.approx(used, rel=0.2)
        assert scores["perplexity"] == pytest.approx(perplexity, rel=0.5)
    assert scores["wasserstein_distance"] == pytest.approx(8**0.5 * shift, abs=0.06)


def test_all_methods_start_equal(study: Path):
    for shift in SMALL.shifts:
        start = rows(study, step=0, shift=shift)
        assert len(start) == len(SMALL.methods)
        for row in start:
            for name in ("quantization_error", "utilization", "perplexity", "wasserstein_distance"):
                assert row[name] == start[0][name]


def test_order_of_the_methods_far_away(study: Path):
    end = {row["method"]: row for row in rows(study, step=100, shift=4)}
    assert end["vanilla"]["utilization"] < 0.02
    assert end["ema"]["utilization"] < 0.1
    assert end["transport"]["utilization"] == 1
    assert end["transport"]["quantization_error"] < end["wasserstein"]["quantization_error"]
    assert end["wasserstein"]["wasserstein_distance"] < 0.9 * 8**0.5 * 4  # on its way, at constant speed


def test_table_and_figure(study: Path):
    with (study / "atomic.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows(study)) == len(SMALL.methods) * 2 * 4  # steps 0, 1, 50, 100
    assert float(table[5]["utilization"]) == rows(study)[5]["utilization"]
    with Image.open(study / "atomic.png") as picture:
        assert picture.width > 1000


def test_finished_cells_are_kept_and_those_of_other_settings_refused(study: Path):
    config = dataclasses.replace(SMALL, output_dir=str(study))
    before = {path: path.stat().st_mtime_ns for path in (study / "cells").iterdir()}
    atomic(config)
    assert {path: path.stat().st_mtime_ns for path in (study / "cells").iterdir()} == before
    with pytest.raises(InputError, match="computed with num_features = 2048, not 1024"):
        atomic(dataclasses.replace(config, num_features=1024))


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
def test_laws(law):
    features = draw_features(law, 100_000, 3, 2.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(features.mean(dim=0), torch.full((3,), 2.0), atol=0.02, rtol=0)
    spread = 1.0 if law == "gaussian" else 3**-0.5
    torch.testing.assert_close(features.std(dim=0), torch.full((3,), spread), atol=0.02, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(tmp_path: Path, method: str):
    config = dataclasses.replace(SMALL, output_dir=str(tmp_path), methods=(method,), shifts=(1,), steps=3)
    atomic(config)
    start, end = rows(tmp_path, step=0)[0], rows(tmp_path, step=3)[0]
    assert end["quantization_error"] != start["quantization_error"]
    assert all(math.isfinite(end[name]) for name in ("quantization_error", "perplexity", "wasserstein_distance"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("methods", ("kmeans",), "methods holds 'kmeans'; valid are vanilla"),
        ("shifts", (), "shifts is empty"),
        ("steps", 0, "steps is 0; it must be at least 1"),
    ],
)
def test_options_that_cannot_be_used(field: str, value: Any, message: str):
    with pytest.raises(InputError, match=message):
        Atomic(**{field: value})


def test_prototypical_study_has_the_papers_figures(tmp_path: Path):
    prototypical_study(tmp_path, (7, 8, 9))
    found = json.loads((tmp_path / "prototypical.json").read_text())["rows"]
    # centre of the codes: root of E, U and C of the paper's figure
    for centre, error, used, perplexity in [(-0.6, 1.19, 0.02, 3.8), (0.0, 0.70, 0.208, 16.5), (0.7, 0.26, 0.578, 96.9),
                                            (1.4, 0.05, 1.0, 344.9)]:  # fmt: skip
        seeds = [row for row in found if row["case"] == "centre of the codes" and row["value"] == centre]
        assert len(seeds) == 3
        assert sum(row["quantization_error"] ** 0.5 for row in seeds) / 3 == pytest.approx(error, rel=0.06)
        assert sum(row["utilization"] for row in seeds) / 3 == pytest.approx(used, abs=0.04)
        assert sum(row["perplexity"] for row in seeds) / 3 == pytest.approx(perplexity, rel=0.1, abs=1.5)
    assert (tmp_path / "prototypical.png").exists()
    assert (tmp_path / "prototypical.csv").exists()


def test_variance_study_has_the_papers_figures(tmp_path: Path):
    variance_study(tmp_path, (0,))
    found = json.loads((tmp_path / "variance.json").read_text())["rows"]
    for row in found:
        gaussian = row["case"] == "gaussian"
        assert row["quantization_error"] / row["value"] ** 2 == pytest.approx(1.25 if gaussian else 0.327, rel=0.02)
        assert row["utilization"] == pytest.approx(0.994 if gaussian else 0.999, abs=0.003)
        assert row["perplexity"] == pytest.approx(7265 if gaussian else 7388, rel=0.01)
