"""`wvq benchmark training` at toy size."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_runs import MODEL

from wvq.eval.benchmarks.training import TrainingBenchmark, benchmark_training
from wvq.prior import PriorSize
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig


def test_both_stages_are_measured_in_every_round(fashion_folder: Path, tmp_path: Path):
    config = TrainingBenchmark(
        output=str(tmp_path / "training.json"),
        data=DataConfig(source=str(fashion_folder), channels=1),
        tokenizer=MODEL,
        prior=PriorSize(hidden_size=16, num_layers=1, num_heads=2),
        batch_size=10, steps=6, log_every=2, checkpoint_every=4, rounds=2,
    )  # fmt: skip
    table = benchmark_training(config)
    assert [line.split()[0] for line in table.splitlines()] == ["stage", "tokenizer", "prior"]
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    for row in rows:
        assert len(row["rounds"]) == 2
        (loop_a, bare_a), (loop_b, bare_b) = row["rounds"]
        assert min(loop_a, bare_a, loop_b, bare_b) > 0
        assert row["overhead"] == pytest.approx((loop_a / bare_a + loop_b / bare_b) / 2 - 1)


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"steps": 15}, {"steps": 10}])
def test_bad_settings_are_named(changes: dict[str, Any]):
    with pytest.raises(InputError, match=f"{next(iter(changes))} is "):
        TrainingBenchmark(**changes)
