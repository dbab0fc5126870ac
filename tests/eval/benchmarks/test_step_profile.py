"""`wvq benchmark training --profile true`: the parts of a step add up, and are what they are called."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run
from toy_runs import MODEL, toy_stage

from wvq.eval.benchmarks.peak_flops import matrix_precision, peak_flops
from wvq.eval.benchmarks.step_profile import PARTS, StepProfiler, covered, divide, profile_steps, union
from wvq.eval.benchmarks.training import TrainingBenchmark, benchmark_training
from wvq.pipelines.training.phases import listening
from wvq.prior import PriorSize
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset

spans = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple), max_size=8)


@given(spans, st.integers(0, 20), st.integers(0, 20))
def test_a_union_covers_what_any_of_its_spans_does(parts: list[Any], start: int, length: int):
    expected = sum(any(a <= tick < b for a, b in parts) for tick in range(start, start + length))
    assert covered(union(parts), start, start + length) == expected


@given(spans, spans, st.permutations(["data", "host", "forward", "backward", "optimizer", "other"]))
def test_parts_add_up_and_what_computes_is_not_waited_for(compute: list[Any], collective: list[Any], phases: list[str]):
    labels = [(phase, 3.0 * n, 3.0 * n + 3) for n, phase in enumerate(phases)]
    parts = divide(labels, compute, collective, 20.0)
    assert parts.keys() == {*PARTS, "step"}
    assert sum(parts[name] for name in PARTS) == parts["step"] == 20.0
    assert min(parts.values()) >= 0
    assert parts["data"] == 3.0
    assert parts["other"] == 5.0  # its label, and two that have none
    start = 3 * phases.index("backward")
    assert parts["backward"] == sum(any(a <= tick < b for a, b in compute) for tick in range(start, start + 3))
    assert divide(labels, compute, compute, 20.0)["collective"] == 0.0


def test_both_stages_are_profiled_in_their_own_loops(fashion_folder: Path, tmp_path: Path):
    config = TrainingBenchmark(
        output=str(tmp_path / "profile.json"),
        data=DataConfig(source=str(fashion_folder), channels=1),
        tokenizer=MODEL,
        prior=PriorSize(hidden_size=16, num_layers=1, num_heads=2),
        batch_size=10, steps=6, log_every=2, checkpoint_every=4, profile=True,
    )  # fmt: skip
    table = benchmark_training(config)
    assert [line.split()[0] for line in table.splitlines()[1:9]] == [*PARTS, "step"]
    assert table.splitlines()[-2].split() == ["utilization", "unknown", "unknown"]
    rows = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["tokenizer", "prior"]
    for row in rows:
        parts = row["parts"]
        assert sum(parts[name] for name in PARTS) == pytest.approx(parts["step"], rel=1e-9)
        assert min(parts[name] for name in ("data", "host", "forward", "backward", "optimizer", "other")) > 0
        assert parts["collective"] == 0
        assert row["seconds"] > 0
    # The products of the prior's matrices, once forward and twice backward, of 10 images of 49 tokens.
    layer, head = 4 * 16 * 16 + 3 * 16 * 64, 16 * (32 + 10 + 1)
    assert rows[1]["flops"] >= 6 * 490 * (layer + head)


def test_the_step_is_as_long_by_another_clock_and_slow_data_are_data(fashion_folder, tmp_path, monkeypatch):
    take = ImageDataset.take

    def slow(self: ImageDataset, indices: Any) -> Any:
        time.sleep(0.02)
        return take(self, indices)

    monkeypatch.setattr(ImageDataset, "take", slow)
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    profiler, phases = StepProfiler(skipped=1, profiled=3), []
    with listening(profiler), listening(phases.append):
        train(config)
    parts = profiler.parts()
    assert parts["step"] == pytest.approx(profiler.wall_clock, rel=0.05)
    assert parts["data"] > 0.02
    step = ["data", "host", "forward", "backward", "forward", "optimizer", "other"]
    assert phases == 8 * step + ["data"]


def profile_the_quicker(folder: Path, images: Path) -> None:
    """Process 1 is slow with its data; process 0 writes down where its own time goes."""
    train, config = toy_stage("tokenizer", images, folder)
    quick = os.environ["RANK"] == "0"
    take = ImageDataset.take
    with patch.object(ImageDataset, "take", lambda *given: time.sleep(0.0 if quick else 0.05) or take(*given)):
        row = profile_steps(train, dataclasses.replace(config, log_every=2))
    if quick:
        (folder / "row.json").write_text(json.dumps(row))


def test_waiting_for_another_process_is_collective(fashion_folder: Path, tmp_path: Path):
    run(2, profile_the_quicker, tmp_path, fashion_folder)
    parts = json.loads((tmp_path / "row.json").read_text())["parts"]
    assert parts["collective"] > 0.03
    assert sum(parts[name] for name in PARTS) == pytest.approx(parts["step"], rel=1e-9)


def test_peaks_are_those_of_the_card():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989.5e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_flops("NVIDIA H200", "tf32") == 494.5e12
    assert peak_flops("NVIDIA H200 NVL", "tf32") == 417.5e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == peak_flops("NVIDIA A100 80GB PCIe", "bfloat16") == 312e12
    assert peak_flops("NVIDIA L40S", "float32") == 91.6e12
    assert peak_flops("NVIDIA L40", "float32") is None
    assert peak_flops("cpu", "float32") is None
    assert matrix_precision("bf16") == "bfloat16"
    assert matrix_precision("no") == "float32"
