"""`wvq benchmark evaluation` and `wvq benchmark sample-size` at toy size: every tool does the work it is named for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wvq.eval.benchmarks.evaluation import TIMED_SCORES, EvaluationBenchmark, benchmark_evaluation
from wvq.eval.benchmarks.peers import score_peers
from wvq.eval.benchmarks.sample_size import SampleSizeBenchmark
from wvq.pipelines.command_line import main
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance

INCEPTION = ["wvq", "torch-fidelity, batch 64", "torchmetrics, batch 64", "pytorch-fid, batch 50"]


@pytest.mark.parametrize(("network", "tools"), [("inception", INCEPTION), ("efficientnet-lite0", INCEPTION[:3])])
def test_every_tool_takes_the_same_images_through_the_same_network(
    network: Any, tools: list[str], fashion_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pytorch_fid", reason="pytorch-fid is a development dependency")
    config = EvaluationBenchmark(
        output=str(tmp_path / "scores.json"), data=DataConfig(source=str(fashion_folder)), num_images=3, scores=(),
        network=network, repeats=1,
    )  # fmt: skip
    hub = torch.hub.get_dir()
    table = benchmark_evaluation(config)
    assert torch.hub.get_dir() == hub
    written = json.loads((tmp_path / "scores.json").read_text())
    rows = {row["tool"]: row for row in written["passes"]}
    assert list(rows) == tools
    assert len(table.splitlines()) == 1 + len(tools)
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(3 / row["seconds"]["wall"][0])
        assert row["seconds"]["cpu"][0] > 0
    assert rows["wvq"]["difference"] < 1e-4
    assert rows[tools[1]]["difference"] == 0
    assert rows[tools[1]]["times_torch_fidelity"] == {"wall": 1, "cpu": 1}
    if network == "inception":  # another resize, another scale of the pixels
        assert all(1e-4 < rows[name]["difference"] < 1 for name in tools[2:])
    assert written["protocol"]["threads"] == torch.get_num_threads()
    assert written["protocol"]["versions"]["torch-fidelity"]


def test_every_score_is_timed_beside_its_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--num-images=0", "--num-features=200", "--dimension=20", "--repeats=2"]
    main(["benchmark", "evaluation", "--output", str(tmp_path / "scores.json"), *sizes])
    rows = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert [row["score"] for row in rows if row["tool"] == "wvq"] == ["distance", *TIMED_SCORES]
    peers = {row["score"] for row in rows if row["tool"] == "torch-fidelity"}
    assert peers == {"distance", "fid", "kid", "is", "precision"}
    for row in rows:
        own = next(r for r in rows if r["score"] == row["score"])
        ratios = [a / b for a, b in zip(row["seconds"]["wall"], own["seconds"]["wall"], strict=True)]
        assert row["times_wvq"]["wall"] == pytest.approx(sum(ratios) / 2)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)


def test_distances_of_the_peers_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(300, 8, generator=generator) * scale for scale in (1.0, 1.5))
    given = mean_and_covariance(real), mean_and_covariance(generated)
    peers = score_peers(real, generated, given)
    theirs: Any = peers["distance", "torch-fidelity"]()
    assert float(peers["distance", "torchmetrics"]()) == pytest.approx(theirs["frechet_inception_distance"])  # pyright: ignore[reportArgumentType]
    fid: Any = peers["fid", "torch-fidelity"]()
    assert fid == pytest.approx(theirs)


def test_the_bias_of_the_plain_distance_is_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dimension=8", "--counts=[60,120,240]", "--seeds=[0,1]"]
    main(["benchmark", "sample-size", "--output-dir", str(tmp_path), *options])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["images", "60", "120", "240"]
    rows = json.loads((tmp_path / "sample-size.json").read_text())["rows"]
    assert [(row["seed"], row["count"]) for row in rows] == [(s, n) for s in (0, 1) for n in (60, 120, 240)]
    for small, _, large in (rows[:3], rows[3:]):
        assert small["plain"] > large["plain"] > 0
        assert large["low"] < large["value"] < large["high"]
    assert (tmp_path / "sample-size.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": ["fdi"]}, "scores has fdi; valid are distance, fid, fid-infinity"),
        ({"num_features": 100}, "num_features is 100; it must be at least 200"),
        ({"repeats": 0}, "repeats is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluationBenchmark(**changes)


def test_too_few_images_are_refused(fashion_folder: Path, tmp_path: Path) -> None:
    data = DataConfig(source=str(fashion_folder))
    with pytest.raises(InputError, match="num_images is 101; the evaluation split has 100"):
        benchmark_evaluation(EvaluationBenchmark(output=str(tmp_path / "x.json"), data=data, num_images=101))
    with pytest.raises(InputError, match="give at least one of each, and counts above three times the dimension"):
        SampleSizeBenchmark(counts=(100,), dimension=64)
