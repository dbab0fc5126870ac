"""The files of a comparison, read back: CSV in full, Markdown and LaTeX at the digits shown."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from report_rows import row

from wvq.eval.report.columns import table_columns
from wvq.eval.report.groups import group_rows, statistics_rows
from wvq.eval.report.pairs import pair_rows
from wvq.eval.report.table_files import latex, legend, markdown, write_tables

PSNR = {"a_b": [21.0, 22.0, 23.0], "50 % & $x$": [22.0, 23.01, 24.0], "c": [24.0, 21.0, 23.5]}


def comparison(setting: dict[str, Any] | None = None, seeds: int = 3) -> dict[str, Any]:
    rows = [
        row(name, seed, psnr=PSNR[name][seed], perplexity=1234.5 + seed, setting=setting or {})
        for seed in range(seeds)
        for name in PSNR
    ]
    statistics = statistics_rows(table_columns(rows), group_rows(rows), "a_b")
    pairs = pair_rows(table_columns(rows), group_rows(rows))
    return {"protocol": {}, "baseline": "a_b", "rows": rows, "statistics": statistics, "pairs": pairs}


def test_csv_holds_every_number_in_full(tmp_path: Path) -> None:
    content = comparison({"codebook_size": 256, "gamma": None})
    content["rows"][1]["seconds"].pop("sampling")  # not every run has every stage
    write_tables(tmp_path, content)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    for found, expected in zip(read, content["rows"], strict=True):
        assert (found["quantizer"], int(found["seed"])) == (expected["quantizer"], expected["seed"])
        assert float(found["psnr"]) == expected["psnr"]
        assert float(found["reconstruction_frechet_distance"]) == expected["reconstruction_frechet_distance"]
        assert (found["setting.codebook_size"], found["setting.gamma"]) == ("256", "")
        assert int(found["steps.tokenizer"]) == 1000
    assert [one["seconds.sampling"] for one in read[:2]] == ["9.0", ""]
    with (tmp_path / "statistics.csv").open(newline="") as file:
        for found, expected in zip(csv.DictReader(file), content["statistics"], strict=True):
            for name, value in expected.items():
                assert found[name] == ("" if value is None else str(value))


def numbers(cell: str) -> tuple[float, float, bool, bool]:
    """Value, half of the interval, bold, dagger of a Markdown or LaTeX cell."""
    value, half = re.sub(r"\\textbf|\\pm|\\dagger|[*{}$^†]", "", cell).replace("±", " ").split()
    return float(value), float(half), "**" in cell or r"\textbf" in cell, "†" in cell or r"\dagger" in cell


def cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in re.split(rf"(?<!\\){re.escape(separator)}", line.removesuffix(r"\\"))]


def test_markdown_and_latex_hold_the_same_numbers() -> None:
    content = comparison()
    header, _, *body = [cells(line.strip("|"), "|") for line in markdown(content).split("\n\n")[0].splitlines()]
    lines = latex(content).splitlines()
    lines = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    names, psnr = list(PSNR), header.index("PSNR (dB) ↑")
    statistics = [one for one in content["statistics"] if one["score"] == "PSNR (dB)"]
    for name, plain, tex, expected in zip(names, body, (cells(line, "&") for line in lines), statistics, strict=True):
        assert plain[0] == name
        assert numbers(plain[psnr]) == numbers(tex[psnr])
        value, half, bold, dagger = numbers(plain[psnr])
        assert (value, half) == pytest.approx((expected["mean"], expected["high"] - expected["mean"]), abs=0.005)
        assert bold == (name == "50 % & $x$")
        assert dagger == (name == "50 % & $x$")
    assert numbers(body[0][header.index("Perplexity ↑")])[0] == pytest.approx(
        1235.5, abs=0.5
    )  # no comma that breaks a number


def test_latex_is_a_booktabs_table_with_names_escaped() -> None:
    text = latex(comparison({"codebook_size": 256}))
    assert r"\begin{tabular}{llrrrrrrrrrr}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")] == [1] * 4
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(cells(line, "&")) for line in rows} == {12}
    assert rows[0].startswith(r"Method & codebook\_size & Utilization (\%) $\uparrow$ &")
    assert [line.split(" & 256 & ")[0] for line in rows[1:]] == [r"a\_b", r"50 \% \& \$x\$", "c"]


def test_one_seed_has_no_interval_and_says_so() -> None:
    text = markdown(comparison(seeds=1))
    assert "±" not in text
    assert "†" not in text.split("\n\n")[0]
    assert "One seed: no interval, no test, and how much a number varies between seeds is not known." in text
    assert (
        "With 3 seeds a paired t test has p below 0.05 only where the mean difference is at least 2.5 times"
        in legend(comparison())
    )
