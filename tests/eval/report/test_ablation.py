"""The plots of an ablation: which runs make a line, where its points lie."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_rows import row

from wvq.eval.report import ablation
from wvq.eval.report.ablation import Ablation, Point, ablation_blocks
from wvq.eval.report.figures import BASELINE_DASHES, Picture


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, in order."""
    drawn: list[Figure] = []

    def embed(figure: Figure, alt: str) -> Picture:
        drawn.append(figure)
        return Picture("", 0, 0, alt)

    monkeypatch.setattr(ablation, "embed", embed)
    return drawn


def run(method: str, seed: int, size: int, gamma: float | None, distance: float) -> dict[str, Any]:
    setting = {"codebook_size": size, "gamma": gamma}
    return row(method, seed, setting=setting, reconstruction_frechet_distance=distance,
               generation_frechet_distance=None)  # fmt: skip


def test_a_line_is_the_mean_over_seeds_and_its_band_reaches_over_them(figures: list[Figure]) -> None:
    sizes = [1024, 256, 16384]
    rows = [run("vanilla", seed, size, None, size + seed) for size in sizes for seed in (0, 4)]
    points = [Point("vanilla", {"codebook_size": size}, rows[2 * n]["setting"]) for n, size in enumerate(sizes)]
    (block,) = ablation_blocks([Ablation("size", points)], rows)
    assert (block.study, block.field, [name for name, _ in block.legend]) == ("size", "codebook_size", ["vanilla"])
    assert [picture.alt.split(" against")[0] for picture in block.pictures] == [
        "Utilization (%)", "Perplexity", "rFD[efficientnet-lite0]",
    ]  # fmt: skip
    axes = figures[2].axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[size, size + 2] for size in sorted(sizes)])
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.y0, band.y1) == (256, 16388)
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,024", "256", "16,384"]


def test_a_method_without_the_option_is_level_and_dashed(figures: list[Figure]) -> None:
    gammas = [0.0, 0.5, 1.0]
    rows = [run("vanilla", 0, 256, None, 7.0), *(run("matched", 0, 256, gamma, 5 - gamma) for gamma in gammas)]
    points = [Point("vanilla", {"gamma": gamma}, rows[0]["setting"]) for gamma in gammas]
    points += [Point("matched", {"gamma": gamma}, one["setting"]) for gamma, one in zip(gammas, rows[1:], strict=True)]
    (block,) = ablation_blocks([Ablation("gamma", points)], rows)
    assert [name for name, _ in block.legend] == ["vanilla (has no such option)", "matched"]
    assert [style.dashes for _, style in block.legend] == [BASELINE_DASHES, ()]
    vanilla, matched = figures[2].axes[0].lines
    np.testing.assert_array_equal(vanilla.get_xydata(), [[gamma, 7] for gamma in gammas])
    np.testing.assert_array_equal(matched.get_xydata(), [[gamma, 5 - gamma] for gamma in gammas])
    assert figures[2].axes[0].get_xscale() == "linear"  # zero has no logarithm


def test_a_grid_has_a_block_for_each_field_and_a_line_for_each_value_of_the_other(figures: list[Figure]) -> None:
    grid = [(size, gamma) for size in (256, 512) for gamma in (0.1, 0.2)]
    rows = [run("matched", 0, size, gamma, 1.0) for size, gamma in grid]
    points = [Point("matched", {"codebook_size": s, "gamma": g}, {"codebook_size": s, "gamma": g}) for s, g in grid]
    by_size, by_gamma = ablation_blocks([Ablation("both", points)], rows)
    assert [name for name, _ in by_size.legend] == ["matched, gamma 0.1", "matched, gamma 0.2"]
    assert [name for name, _ in by_gamma.legend] == ["matched, codebook_size 256", "matched, codebook_size 512"]
    assert len({style.dashes for _, style in by_size.legend}) == 2
    assert len(figures) == 6


def test_words_stand_beside_each_other(figures: list[Figure]) -> None:
    rows = [row("a", 0, setting={"initialization": name}) for name in ("normal", "data")]
    points = [Point("a", one["setting"], one["setting"]) for one in rows]
    ablation_blocks([Ablation("start", points)], rows)
    assert [label.get_text() for label in figures[0].axes[0].get_xticklabels()] == ["normal", "data"]
    np.testing.assert_array_equal(figures[0].axes[0].lines[0].get_xdata(), [0, 1])


def test_one_value_is_no_plot() -> None:
    rows = [row("a", 0, setting={"codebook_size": 256})]
    assert ablation_blocks([Ablation("one", [Point("a", {"codebook_size": 256}, rows[0]["setting"])])], rows) == []
