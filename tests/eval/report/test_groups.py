"""Scores of groups of runs: which runs are paired, what is corrected together, what is ranked."""

import math
from typing import Any

import pytest
from report_rows import row
from scipy import stats

from wvq.eval.report.columns import Column, table_columns
from wvq.eval.report.groups import (
    difference_columns,
    group_rows,
    group_scores,
    mean_columns,
    opponents,
    rank_columns,
    statistics_rows,
)
from wvq.eval.report.statistics import holm
from wvq.tokenizer.storage.atomic import write_json

PSNR = {"vanilla": [22.0, 22.5, 21.8], "mmd": [23.1, 23.2, 23.3], "ema": [22.1, 22.3, 22.4]}


def seeded(psnr: dict[str, list[float]] = PSNR) -> list[dict[str, Any]]:
    return [row(name, seed, psnr=psnr[name][seed]) for seed in range(3) for name in psnr]


def column_of(rows: list[dict[str, Any]], name: str) -> Column:
    return next(column for column in table_columns(rows) if column.name == name)


def test_scores_of_groups_equal_scipy() -> None:
    rows = seeded()
    groups = group_rows(rows)
    assert [group.rows for group in groups] == [{0: 0, 1: 3, 2: 6}, {0: 1, 1: 4, 2: 7}, {0: 2, 1: 5, 2: 8}]
    vanilla, mmd, ema = group_scores(column_of(rows, "PSNR"), groups, "vanilla")
    assert vanilla.test is None
    assert math.isnan(vanilla.p_holm)
    p_values = [stats.ttest_rel(PSNR[name], PSNR["vanilla"]).pvalue for name in ("mmd", "ema")]
    assert mmd.test
    assert ema.test
    assert [mmd.test.p, ema.test.p] == pytest.approx(p_values)
    assert [mmd.p_holm, ema.p_holm] == pytest.approx(holm(p_values))
    assert [vanilla.rank, mmd.rank, ema.rank] == pytest.approx([8 / 3, 1, 7 / 3])


def test_lower_is_better_where_it_is() -> None:
    rows = [row("a", 0, reconstruction_frechet_distance=5.0), row("b", 0, reconstruction_frechet_distance=4.0)]
    distance = column_of(rows, "rFD[efficientnet-lite0]")
    assert [score.rank for score in group_scores(distance, group_rows(rows), "a")] == [2, 1]


def test_pairs_are_the_common_seeds() -> None:
    rows = [row("a", 0, psnr=1.0), row("a", 1, psnr=2.0), row("a", 2, psnr=9.0)]
    rows += [row("b", 2, psnr=9.5), row("b", 1, psnr=2.25), row("b", 7, psnr=100.0)]
    b = group_scores(column_of(rows, "PSNR"), group_rows(rows), "a")[1]
    assert b.test
    assert (b.test.pairs, b.test.difference.value) == (2, 0.375)
    assert b.seeds == 3


def test_opponents_are_of_the_same_setting() -> None:
    def cell(method: str, size: int, gamma: float | None) -> dict[str, Any]:
        return row(method, 0, setting={"codebook_size": size, "gamma": gamma})

    rows = [cell("vanilla", 256, None), cell("vanilla", 1024, None)]
    rows += [cell("wasserstein", 256, 0.1), cell("wasserstein", 1024, 0.1), cell("wasserstein", 1024, 0.5)]
    groups = group_rows(rows)
    assert [group.label for group in groups][:3] == [
        "vanilla, codebook_size 256", "vanilla, codebook_size 1024", "wasserstein, codebook_size 256, gamma 0.1",
    ]  # fmt: skip
    vanilla = [None, None, groups[0], groups[1], groups[1]]
    assert opponents(groups, "vanilla") == vanilla
    assert opponents(groups, "wasserstein")[:2] == [groups[2], None]  # at 1024 there are two, of different gamma
    assert opponents(groups, None) == [None] * 5


def test_columns_of_groups() -> None:
    rows = seeded()
    columns, groups = table_columns(rows), group_rows(rows)
    psnr = next(column for column in mean_columns(columns, groups) if column.name == "PSNR")
    interval = stats.t.interval(0.95, 2, loc=22.1, scale=stats.sem(PSNR["vanilla"]))
    assert (psnr.values[0], psnr.halves[0]) == pytest.approx((22.1, interval[1] - 22.1))
    assert psnr.half_text(0) == "± 0.90"
    assert psnr.leaders() == [1]
    difference = next(column for column in difference_columns(columns, groups, "vanilla") if column.name == "PSNR")
    assert [difference.text(number) for number in range(3)] == ["\N{EN DASH}", "+1.10", "+0.17"]
    assert difference.details[0] == ""
    assert (
        difference.details[1] == "p\N{NO-BREAK SPACE}0.041\nHolm\N{NO-BREAK SPACE}0.083"
    )  # t = 1.1 / (0.4 / sqrt(3)) = 4.763
    assert difference.bold() == ()
    ranks = {column.name: column.values for column in rank_columns(columns, groups)}
    assert ranks["SSIM"] == [2, 2, 2]
    assert ranks["PSNR"] == pytest.approx([8 / 3, 1, 7 / 3])
    assert ranks["all scores"][0] == pytest.approx((8 / 3 + 2 * (len(ranks) - 2)) / (len(ranks) - 1))
    assert "quantization error" not in ranks


def test_a_significant_difference_is_bold() -> None:
    rows = seeded({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.01, 4.0]})
    columns, groups = table_columns(rows), group_rows(rows)
    found = {column.name: column.bold() for column in difference_columns(columns, groups, "a")}
    assert found["PSNR"] == (1,)
    assert found["SSIM"] == ()


def test_records_hold_the_numbers_and_none_for_what_is_not_known(tmp_path) -> None:
    rows = [row("a", 0, psnr=20.0, setting={"codebook_dim": 4}), row("b", 0, psnr=21.0, setting={"codebook_dim": 4})]
    columns = [column_of(rows, "PSNR")]
    _, record = statistics_rows(columns, group_rows(rows), "a")
    assert record == {
        "quantizer": "b", "setting.codebook_dim": 4, "score": "PSNR (dB)", "better": "higher", "seeds": 1, "mean": 21.0,
        "low": None, "high": None, "mean_rank": 1.0, "difference": 1.0, "difference_low": None,
        "difference_high": None, "p": None, "p_holm": None,
    }  # fmt: skip
    write_json(tmp_path / "statistics.json", record)
    assert "NaN" not in (tmp_path / "statistics.json").read_text()
