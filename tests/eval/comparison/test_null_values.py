"""Fields and options whose value is none: values like others, and not the lack of the option."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_rows import row

from wvq.eval.comparison.collect import ablations
from wvq.eval.comparison.config import Comparison, Method, OptionGrid
from wvq.eval.comparison.own_options import grid_comparison, with_own_options
from wvq.eval.report.ablation import ablation_blocks
from wvq.eval.report.columns import table_columns
from wvq.eval.report.groups import group_rows, opponents
from wvq.eval.report.pairs import group_pairs

METHODS = {"plain": Method("vanilla"), "carried": Method("transport")}


def rows_of(config: Comparison) -> list[dict[str, Any]]:
    return [
        row(cell.method, cell.seed, setting=config.setting(cell), psnr=20.0 + number + cell.seed**2)
        for number, cell in enumerate(config.cells)
    ]


def test_none_is_a_value_of_a_field_of_both_methods() -> None:
    config = Comparison(methods=METHODS, seeds=(0, 1, 2), settings={"tables": {"table_learning_rate": [None, 0.0003]}})
    assert [cell.group for cell in config.cells[:3:2]] == ["plain", "plain-table_learning_rate=0.0003"]
    rows = rows_of(config)
    assert [one["setting"] for one in rows[:3:2]] == [{"table_learning_rate": "null"}, {"table_learning_rate": 0.0003}]
    groups = group_rows(rows)
    assert [group and group.label for group in opponents(groups, "plain")] == [
        None, "plain, table_learning_rate null", None, "plain, table_learning_rate 0.0003",
    ]  # fmt: skip
    psnr = next(column for column in table_columns(rows) if column.name == "PSNR")
    pairs = [(pair.first.label, pair.second.label) for pair in group_pairs(psnr, groups)]
    assert pairs == [
        (f"plain, table_learning_rate {value}", f"carried, table_learning_rate {value}") for value in ("null", 0.0003)
    ]
    (block,) = ablation_blocks(ablations(config), rows)
    assert [name for name, _ in block.legend] == ["plain", "carried"]


def test_a_method_without_an_option_is_not_one_whose_option_is_none() -> None:
    config = Comparison(methods=METHODS, tokenizers_only=True, settings={"decay": {"decay": [None, 0.9]}})
    assert [config.setting(cell) for cell in config.cells] == [{"decay": None}, {"decay": "null"}, {"decay": 0.9}]
    (block,) = ablation_blocks(ablations(config), rows_of(config))
    assert [name for name, _ in block.legend] == ["plain (has no such option)", "carried"]


@pytest.mark.parametrize(("best", "chosen"), [(None, None), (0.9, 0.9)])
def test_a_grid_may_choose_none(tmp_path: Path, best: float | None, chosen: float | None) -> None:
    methods = METHODS | {"carried": Method("transport", {"decay": 0.9})}
    grid = OptionGrid({"decay": [None, 0.9]})
    config = Comparison(str(tmp_path), methods=methods, tokenizers_only=True, grid=grid)
    inner = grid_comparison(config)
    rows = rows_of(inner)
    for cell, one in zip(inner.cells, rows, strict=True):
        own = inner.training("tokenizer", cell).model.quantizer_options.get("decay")
        one["reconstruction_frechet_distance"] = 1.0 if own == best else 2.0
    Path(inner.output_dir).mkdir()
    (Path(inner.output_dir) / "comparison.json").write_text(json.dumps({"rows": rows}))
    found = with_own_options(config).methods
    assert found["carried"].quantizer_options == {"decay": chosen}
    assert found["plain"].quantizer_options == {}
