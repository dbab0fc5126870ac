"""Who beats whom: which pairs are tested, corrected together, and what is said of them."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from report_pages import render
from report_rows import row
from scipy import stats

from wvq.eval.report.columns import Column, table_columns
from wvq.eval.report.groups import group_rows, statistics_rows
from wvq.eval.report.pairs import beaten_columns, group_pairs, pair_rows
from wvq.eval.report.statistics import holm
from wvq.eval.report.table_files import latex_of_pairs, write_tables

PSNR = {"a": [20.0, 21.0, 20.5], "b": [22.0, 23.01, 22.51], "c": [24.0, 25.02, 24.49], "d": [20.1, 24.0, 22.0]}


def seeded(psnr: dict[str, list[float]] = PSNR, **scores: Any) -> list[dict[str, Any]]:
    return [row(name, seed, psnr=value, **scores) for name in psnr for seed, value in enumerate(psnr[name])]


def column_of(rows: list[dict[str, Any]], name: str) -> Column:
    return next(column for column in table_columns(rows) if column.name == name)


def test_every_pair_is_tested_and_corrected_for_all_of_its_score() -> None:
    rows = seeded()
    pairs = group_pairs(column_of(rows, "PSNR"), group_rows(rows))
    assert [pair.first.method + pair.second.method for pair in pairs] == ["ab", "ac", "ad", "bc", "bd", "cd"]
    p_values = [stats.ttest_rel(PSNR[pair.first.method], PSNR[pair.second.method]).pvalue for pair in pairs]
    assert [pair.test.p for pair in pairs] == pytest.approx(p_values)
    assert [pair.p_holm for pair in pairs] == pytest.approx(holm(p_values))
    winners = [pair.winner.method if pair.winner else "" for pair in pairs]
    assert winners == ["b", "c", "", "c", "", ""]
    assert group_pairs(column_of(rows, "quantization error"), group_rows(rows)) == [], "not ranked"


def test_lower_wins_where_lower_is_better() -> None:
    rows = [one | {"reconstruction_frechet_distance": one["psnr"]} for one in seeded()]
    pairs = group_pairs(column_of(rows, "rFD[efficientnet-lite0]"), group_rows(rows))
    assert [pair.winner.method for pair in pairs if pair.winner] == ["a", "a", "b"]
    assert [pair.loser.method for pair in pairs if pair.winner] == ["b", "c", "c"]


def test_pairs_are_of_the_same_setting() -> None:
    def cell(method: str, size: int, gamma: float | None) -> list[dict[str, Any]]:
        return [row(method, seed, setting={"size": size, "gamma": gamma}, psnr=20 + seed) for seed in range(2)]

    rows = cell("vanilla", 256, None) + cell("vanilla", 1024, None)
    rows += cell("wasserstein", 256, 0.1) + cell("wasserstein", 1024, 0.1) + cell("wasserstein", 1024, 0.5)
    pairs = group_pairs(column_of(rows, "PSNR"), group_rows(rows))
    settings = [pair.setting for pair in pairs]
    assert settings == [{"size": 256, "gamma": 0.1}, {"size": 1024, "gamma": 0.1}, {"size": 1024, "gamma": 0.5}]
    assert all(math.isnan(pair.p_holm) and pair.winner is None for pair in pairs), "equal values are no test"
    assert beaten_columns(table_columns(rows), group_rows(rows)) == []


def test_names_have_the_options_that_the_winner_lacks() -> None:
    values = {None: [21.0, 22.0, 23.0], 0.1: [20.0, 21.01, 22.0], 0.5: [18.0, 19.01, 20.0]}
    rows = [
        row("plain" if gamma is None else "other", seed, setting={"gamma": gamma}, psnr=value)
        for gamma, own in values.items()
        for seed, value in enumerate(own)
    ]
    beaten = next(one for one in beaten_columns(table_columns(rows), group_rows(rows)) if one.name == "PSNR")
    assert beaten.values == [2, 0, 0]
    assert beaten.details == ["other, gamma 0.1\nother, gamma 0.5", "", ""]
    assert beaten.note == "2 pairs"


def test_pairs_without_a_common_seed_are_none() -> None:
    rows = [row("a", 0), row("b", 1), row("c", 0)]
    pairs = group_pairs(column_of(rows, "PSNR"), group_rows(rows))
    assert [(pair.first.method, pair.second.method, pair.test.pairs) for pair in pairs] == [("a", "c", 1)]


def comparison(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns, groups = table_columns(rows), group_rows(rows)
    tables = {"statistics": statistics_rows(columns, groups, "a"), "pairs": pair_rows(columns, groups)}
    return {"protocol": {}, "baseline": "a", "rows": rows, **tables}


def test_files_hold_every_pair(tmp_path: Path) -> None:
    content = comparison(seeded(setting={"codebook_size": 256}))
    write_tables(tmp_path, content)
    with (tmp_path / "pairs.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for read, expected in zip(found, content["pairs"], strict=True):
        assert read == {name: "" if value is None else str(value) for name, value in expected.items()}
    psnr = next(
        one for one in content["pairs"] if (one["score"], one["first"], one["second"]) == ("PSNR (dB)", "a", "b")
    )
    assert psnr["difference"] == pytest.approx(sum(PSNR["a"]) / 3 - sum(PSNR["b"]) / 3)
    assert (psnr["winner"], psnr["seeds"], psnr["setting.codebook_size"]) == ("b", 3, 256)
    lines = (tmp_path / "pairs.tex").read_text().splitlines()
    assert r"\begin{tabular}{lll}" in lines
    assert r"c & 256 & a, b \\" in lines
    assert r"d & 256 & -- \\" in lines
    assert "\n".join(lines) + "\n" == latex_of_pairs(content)


def test_a_study_may_vary_a_field_that_is_called_as_a_column(tmp_path: Path) -> None:
    content = comparison(seeded(setting={"quantizer": "ema", "score": "none", "p": 0.5}))
    write_tables(tmp_path, content)
    assert {one["quantizer"] for one in content["statistics"]} == {"a", "b", "c", "d"}
    for one in (*content["statistics"], *content["pairs"]):
        assert (one["setting.quantizer"], one["setting.score"], one["setting.p"]) == ("ema", "none", 0.5)
        assert one["score"] != "none"
        assert one["p"] != 0.5
    with (tmp_path / "statistics.csv").open(newline="") as file:
        assert {one["setting.quantizer"] for one in csv.DictReader(file)} == {"ema"}


def test_one_seed_and_one_method_have_no_table_of_pairs(tmp_path: Path) -> None:
    write_tables(tmp_path / "seed", comparison([row(name, 0) for name in "abc"]))
    assert not (tmp_path / "seed" / "pairs.tex").exists()
    write_tables(tmp_path / "method", comparison([row("a", seed) for seed in range(3)]))
    assert not (tmp_path / "method" / "pairs.csv").exists()


def test_the_page_says_who_beats_whom(tmp_path: Path) -> None:
    _, page = render(tmp_path, seeded())
    assert page.headings.index("Who beats whom") == page.headings.index("Ranks") - 1
    cells = [one["PSNR6 pairs"]["text"].split() for one in page.table("beaten")]
    assert cells == [["0"], ["1", "a"], ["2", "a", "b"], ["0"]]
    _, page = render(tmp_path, seeded({name: PSNR[name] for name in "ab"}))
    assert "Who beats whom" not in page.headings, "two are in the table of differences"
